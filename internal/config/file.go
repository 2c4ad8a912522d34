package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	fileFlag = "config" // names the file, so that it cannot be in it
	maxFile  = 1 << 20  // bytes
)

// readFile reads the settings' text from the YAML file at path: one mapping of
// flags' names to single values. Its error tells of every key that is wrong. No
// path is no file.
func readFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	values, err := parseFile(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

func parseFile(content []byte) (map[string]string, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, next yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if decoder.Decode(&next) != io.EOF { //nolint:errorlint // as documented
		return nil, errors.New("there is more than one document in it")
	}
	top := document.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: this is not a mapping of settings to values", top.Line)
	}
	var errs []error
	values, known := map[string]string{}, keys()
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		refuse := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("line %d: "+format, append([]any{key.Line}, args...)...))
		}
		_, twice := values[key.Value]
		switch {
		case !slices.Contains(known, key.Value):
			refuse("%s", unknown(key.Value, known))
		case twice:
			refuse("%q is set a second time", key.Value)
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			refuse("%q needs a single value", key.Value)
		default:
			values[key.Value] = value.Value
		}
	}
	return values, errors.Join(errs...)
}

// unknown says that key is no setting, and which one may have been meant.
func unknown(key string, known []string) string {
	spelled := strings.ReplaceAll(strings.ToLower(key), "_", "-")
	spelled = strings.TrimPrefix(spelled, "teamtoken-")
	if spelled == "tfe-token" {
		return fmt.Sprintf("%q is a secret and has no place in this file: set TFE_TOKEN, or tfe-token-file here", key)
	}
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(spelled, a) - distance(spelled, b) })
	if distance(spelled, nearest) <= 2 {
		return fmt.Sprintf("unknown setting %q, did you mean %q?", key, nearest)
	}
	return fmt.Sprintf("unknown setting %q; those that there are: teamtoken-server --help", key)
}

// distance counts the letters to put in, take out or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// keys lists what the file may hold: every flag but the one that names the file.
func keys() []string {
	var names []string
	for f := range reflect.TypeFor[Config]().Fields() {
		if name := f.Tag.Get("name"); name != "" && name != fileFlag {
			names = append(names, name)
		}
	}
	return names
}

func field(name string) reflect.StructField {
	f, _ := reflect.TypeFor[Config]().FieldByName(name)
	return f
}
