// Package deploy holds what is in deploy/ against the types of those who read it:
// Kubernetes, Istio, Linkerd and the Prometheus operator; and against the program.
package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const (
	chart    = "../../deploy/helm/teamtoken"
	examples = "../../deploy/helm/examples"
)

// types are those that a document of an apiVersion and kind is decoded into.
var types = map[string]func() any{
	"v1/ConfigMap":                                     func() any { return &corev1.ConfigMap{} },
	"v1/Service":                                       func() any { return &corev1.Service{} },
	"v1/ServiceAccount":                                func() any { return &corev1.ServiceAccount{} },
	"apps/v1/Deployment":                               func() any { return &appsv1.Deployment{} },
	"policy/v1/PodDisruptionBudget":                    func() any { return &policyv1.PodDisruptionBudget{} },
	"autoscaling/v2/HorizontalPodAutoscaler":           func() any { return &autoscalingv2.HorizontalPodAutoscaler{} },
	"networking.k8s.io/v1/NetworkPolicy":               func() any { return &networkv1.NetworkPolicy{} },
	"monitoring.coreos.com/v1/ServiceMonitor":          func() any { return &monitoringv1.ServiceMonitor{} },
	"security.istio.io/v1/PeerAuthentication":          func() any { return &securityv1.PeerAuthentication{} },
	"security.istio.io/v1/AuthorizationPolicy":         func() any { return &securityv1.AuthorizationPolicy{} },
	"networking.istio.io/v1/VirtualService":            func() any { return &networkingv1.VirtualService{} },
	"networking.istio.io/v1/DestinationRule":           func() any { return &networkingv1.DestinationRule{} },
	"gateway.networking.k8s.io/v1/GRPCRoute":           func() any { return &gatewayv1.GRPCRoute{} },
	"policy.linkerd.io/v1beta3/Server":                 func() any { return &linkerdServer{} },
	"policy.linkerd.io/v1alpha1/AuthorizationPolicy":   func() any { return &linkerdAuthorizationPolicy{} },
	"policy.linkerd.io/v1alpha1/MeshTLSAuthentication": func() any { return &linkerdMeshTLSAuthentication{} },
	"policy.linkerd.io/v1alpha1/NetworkAuthentication": func() any { return &linkerdNetworkAuthentication{} },
}

// decoded are the documents of a YAML file, each into its type: a field that the type
// does not have is an error.
func decoded(text string) (all []any, err error) {
	for _, document := range strings.Split("\n"+text, "\n---") {
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			return nil, err
		}
		if head.Kind == "" {
			if lines := bytes.TrimSpace([]byte(document)); len(lines) > 0 && lines[0] != '#' {
				return nil, fmt.Errorf("a document without a kind:\n%s", document)
			}
			continue
		}
		made, ok := types[head.APIVersion+"/"+head.Kind]
		if !ok {
			return nil, fmt.Errorf("%s %s is of no type that is known here", head.APIVersion, head.Kind)
		}
		object := made()
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			return nil, fmt.Errorf("%s: %w", head.Kind, err)
		}
		all = append(all, object)
	}
	return all, nil
}

// rendered is the chart with values, as Helm renders it, notes left out.
func rendered(values map[string]any) (string, error) {
	c, err := loader.Load(chart)
	if err != nil {
		return "", err
	}
	all, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "teamtoken", Namespace: "teamtoken", IsInstall: true}, nil)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".yaml") {
			b.WriteString("\n---\n" + files[name])
		}
	}
	return b.String(), nil
}

// exampleFiles are the values that are shipped.
func exampleFiles(t *testing.T) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	names, err := filepath.Glob(examples + "/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no examples", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]any{}
		if err := yaml.Unmarshal(text, &values); err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = values
	}
	return all
}

func one[T any](t *testing.T, objects []any) T {
	t.Helper()
	for _, o := range objects {
		if found, ok := o.(T); ok {
			return found
		}
	}
	var none T
	t.Fatalf("there is no %T", none)
	return none
}

// The chart renders with every example, into objects that Kubernetes knows every field
// of, which are safe to run, and with settings that the program takes.
func TestChart(t *testing.T) {
	for name, values := range exampleFiles(t) {
		t.Run(name, func(t *testing.T) {
			text, err := rendered(values)
			if err != nil {
				t.Fatal(err)
			}
			objects, err := decoded(text)
			if err != nil {
				t.Fatal(err)
			}
			deployment := one[*appsv1.Deployment](t, objects)
			for _, wrong := range unsafe(deployment.Spec.Template) {
				t.Error(wrong)
			}
			pod := deployment.Spec.Template.Spec
			delay := int64(5)
			if *pod.TerminationGracePeriodSeconds < delay+32 {
				t.Errorf("it is killed after %d s, before calls under way are answered", *pod.TerminationGracePeriodSeconds)
			}
			service := one[*corev1.Service](t, objects)
			for _, port := range service.Spec.Ports {
				if port.Name == "grpc" && (port.AppProtocol == nil || *port.AppProtocol != "grpc") {
					t.Error("meshes are not told that it is gRPC")
				}
			}
			if !reflect.DeepEqual(service.Spec.Selector, deployment.Spec.Selector.MatchLabels) {
				t.Error("the Service selects other pods than the Deployment")
			}
			for key, value := range deployment.Spec.Selector.MatchLabels {
				if deployment.Spec.Template.Labels[key] != value {
					t.Errorf("the pods have no label %s=%s", key, value)
				}
			}
			taken(t, deployment, objects)
		})
	}
}

// unsafe is what is wrong with a pod: it runs as root, can write its root or get more
// rights, takes as much as it likes, or would not see that a file changed.
func unsafe(pod corev1.PodTemplateSpec) (wrong []string) {
	say := func(is bool, format string, args ...any) {
		if is {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	yes := func(b *bool) bool { return b != nil && *b }
	p := pod.Spec.SecurityContext
	say(p == nil || !yes(p.RunAsNonRoot) || p.RunAsUser == nil || *p.RunAsUser == 0, "it may run as root")
	say(p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "any system call is allowed")
	say(pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken, "it gets a token for Kubernetes")
	say(pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC, "it is in a namespace of the host's")
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		s := c.SecurityContext
		if s == nil {
			wrong = append(wrong, c.Name+" has no security context")
			continue
		}
		say(s.RunAsUser != nil && *s.RunAsUser == 0 || s.RunAsNonRoot != nil && !*s.RunAsNonRoot, "%s runs as root", c.Name)
		say(!yes(s.ReadOnlyRootFilesystem), "%s can write its root", c.Name)
		say(s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, "%s can get more rights", c.Name)
		say(yes(s.Privileged), "%s is privileged", c.Name)
		say(s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0, "%s has capabilities", c.Name)
		for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			say(c.Resources.Limits.Name(r, "").IsZero(), "%s has no limit of %s", c.Name, r)
			say(c.Resources.Requests.Name(r, "").IsZero(), "%s requests no %s", c.Name, r)
		}
		say(c.ReadinessProbe == nil || c.LivenessProbe == nil, "%s lacks a probe", c.Name)
		for _, m := range c.VolumeMounts {
			say(m.SubPath != "" || m.SubPathExpr != "", "%s would not see that %s changed", c.Name, m.MountPath)
			say(!m.ReadOnly, "%s can write %s", c.Name, m.MountPath)
		}
	}
	return wrong
}

// What is unsafe is found, each by itself.
func TestUnsafeIsFound(t *testing.T) {
	text, err := rendered(exampleFiles(t)["production.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ from, to, want string }{
		{"runAsNonRoot: true", "runAsNonRoot: false", "run as root"},
		{"runAsUser: 65532", "runAsUser: 0", "run as root"},
		{"seccompProfile: {type: RuntimeDefault}", "", "system call"},
		{"automountServiceAccountToken: false\n      #", "automountServiceAccountToken: true\n      #", "token for Kubernetes"},
		{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "write its root"},
		{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "more rights"},
		{"capabilities: {drop: [ALL]}", "", "capabilities"},
		{"memory: 256Mi", "", "limit of memory"},
		{"cpu: 100m", "", "requests no cpu"},
		{"mountPath: /etc/teamtoken/tls, readOnly: true", "mountPath: /etc/teamtoken/tls, subPath: tls.crt, readOnly: true", "would not see"},
		{"livenessProbe:", "startupProbe:", "lacks a probe"},
	} {
		changed := strings.ReplaceAll(text, row.from, row.to)
		if changed == text {
			t.Errorf("there is no %q to change", row.from)
			continue
		}
		objects, err := decoded(changed)
		if err != nil {
			t.Errorf("%s: %v", row.to, err)
			continue
		}
		if wrong := unsafe(one[*appsv1.Deployment](t, objects).Spec.Template); !strings.Contains(strings.Join(wrong, "\n"), row.want) {
			t.Errorf("%q in place of %q: found %q", row.to, row.from, wrong)
		}
	}
	if _, err := decoded(strings.Replace(text, "topologyKey:", "topologyKay:", 1)); err == nil {
		t.Error("a misspelt field is not found")
	}
}

// Values that can't be right are refused, with the name of what to change.
func TestWrongValues(t *testing.T) {
	for _, row := range []struct {
		name   string
		values string
		want   string
	}{
		{"the defaults", `{}`, "upstream.credentialSecret.name"},
		{"nobody may call", `{upstream: {credentialSecret: {name: x}}}`, "policy"},
		{"several replicas without shared state", `{replicas: 2, credentials: caller}`, "state.url"},
		{"an autoscaler without shared state", `{autoscaling: {enabled: true}, credentials: caller}`, "state.url"},
		{"Redis without a key", `{credentials: caller, state: {url: "redis://redis:6379"}}`, "state.keySecret.name"},
		{"a password in the URL", `{credentials: caller, state: {url: "redis://u:p@redis:6379", keySecret: {name: k}}}`, "url"},
		{"two policies", `{upstream: {credentialSecret: {name: x}}, policy: {rules: []}, insecureAllowAnyCaller: true}`, "exclude each other"},
		{"a credential that is not used", `{credentials: caller, upstream: {credentialSecret: {name: x}}}`, "leave it out"},
		{"a credential as a value", `{credentials: caller, upstream: {token: secret}}`, "token"},
		{"a secret as a variable", `{credentials: caller, env: [{name: TFE_TOKEN, value: secret}]}`, "env"},
		{"a setting that has a value of its own", `{credentials: caller, settings: {tfe-address: "https://x"}}`, "tfe-address"},
		{"an upstream in the clear", `{credentials: caller, upstream: {address: "http://tfe.example.com"}}`, "address"},
		{"a misspelt value", `{credentials: caller, replica: 2}`, "replica"},
		{"no limit of memory", `{credentials: caller, resources: {limits: {memory: null}}}`, "memory"},
		{"CAs of clients without TLS", `{credentials: caller, tls: {clientCASecret: {name: x}}}`, "tls.secretName"},
	} {
		values := map[string]any{}
		if err := yaml.Unmarshal([]byte(row.values), &values); err != nil {
			t.Fatal(err)
		}
		if _, err := rendered(values); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, without %q", row.name, err, row.want)
		}
	}
}
