package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// ourPrefix is what the variables of this program begin with. The upstream's own
// settings have the names that other tools know them by.
const ourPrefix = "TEAMTOKEN_"

// Stranger is a variable of the environment that looks like a setting, and is none.
type Stranger struct {
	Name  string
	Meant string // the setting that it may be meant for; empty if none is near
}

// UnknownVariables are the variables of an environment of NAME=VALUE that begin as settings
// do, or are nearly one, and are none. What Kubernetes adds for a Service by the name
// of teamtoken is left out, and so is what only tests read.
func UnknownVariables(environ []string) []Stranger {
	known := variables()
	var all []Stranger
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if slices.Contains(known, name) || serviceLink(name, value) || strings.HasPrefix(name, ourPrefix+"TEST_") || name == ourPrefix+"LONG" {
			continue
		}
		spelled := strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(name))
		meant := meantFor(spelled, known)
		if strings.HasPrefix(spelled, ourPrefix) || meant != "" {
			all = append(all, Stranger{name, meant})
		}
	}
	slices.SortFunc(all, func(a, b Stranger) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func variables() []string {
	var names []string
	for f := range reflect.TypeFor[Config]().Fields() {
		names = append(names, f.Tag.Get("var"))
	}
	return names
}

// maxSlip is how many letters may be wrong in a name.
const maxSlip = 2

// meantFor is the setting that a name is nearly, or the only one that it is the
// beginning or the end of.
func meantFor(name string, known []string) string {
	short, ours := strings.CutPrefix(name, ourPrefix)
	near, least := "", maxSlip+1
	var parts []string
	for _, candidate := range known {
		rest, our := strings.CutPrefix(candidate, ourPrefix)
		switch {
		case !our && ours: // TEAMTOKEN_TFE_TOKEN
			if d := distance(short, candidate); d < least {
				near, least = candidate, d
			}
		case our || strings.HasPrefix(name, candidate[:4]): // other tools have names of three letters, too
			if d := distance(name, candidate); d < least {
				near, least = candidate, d
			}
		}
		if ours && our && (strings.HasPrefix(rest, short+"_") || strings.HasSuffix(rest, "_"+short) || strings.HasSuffix(short, "_"+rest)) {
			parts = append(parts, candidate)
		}
	}
	if near == "" && len(parts) == 1 {
		return parts[0]
	}
	return near
}

// Kubernetes gives each container, for each Service of its namespace, variables such
// as TEAMTOKEN_SERVICE_HOST, TEAMTOKEN_PORT=tcp://10.0.0.1:9090 and
// TEAMTOKEN_PORT_9090_TCP_ADDR.
var (
	linkName = regexp.MustCompile(`^TEAMTOKEN(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	linkPort = regexp.MustCompile(`^TEAMTOKEN(_[A-Z0-9_]+)?_PORT$`)
	linkURL  = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func serviceLink(name, value string) bool {
	return linkName.MatchString(name) || linkPort.MatchString(name) && linkURL.MatchString(value)
}
