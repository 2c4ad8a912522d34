package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/descriptorpb"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
)

// Linkerd's own types are in a module of a control plane: these are the fields of its
// reference that are used here, and no others are taken.
type linkerdServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		PodSelector   metav1.LabelSelector `json:"podSelector"`
		Port          string               `json:"port"`
		ProxyProtocol string               `json:"proxyProtocol"`
	} `json:"spec"`
}

type linkerdReference struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

type linkerdAuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		TargetRef                  linkerdReference   `json:"targetRef"`
		RequiredAuthenticationRefs []linkerdReference `json:"requiredAuthenticationRefs"`
	} `json:"spec"`
}

type linkerdMeshTLSAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Identities []string `json:"identities"`
	} `json:"spec"`
}

type linkerdNetworkAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Networks []struct {
			CIDR string `json:"cidr"`
		} `json:"networks"`
	} `json:"spec"`
}

const service = "teamtoken.v1.TeamTokenService"

// methods are those of the service, and whether each changes something.
func methods() map[string]bool {
	all := map[string]bool{}
	of := teamtokenv1.File_teamtoken_v1_team_token_service_proto.Services().Get(0).Methods()
	for i := range of.Len() {
		options, _ := of.Get(i).Options().(*descriptorpb.MethodOptions)
		all[string(of.Get(i).Name())] = options.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS
	}
	return all
}

func objectsOf(t *testing.T, file string) []any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := decoded(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// With Istio every method has one route, which repeats nothing that changes something
// and waits longer than the program does; nobody gets in without mutual TLS; and who may
// call is said by SPIFFE id and path.
func TestIstio(t *testing.T) {
	objects := objectsOf(t, "../../deploy/istio/teamtoken.yaml")
	if mode := one[*securityv1.PeerAuthentication](t, objects).Spec.GetMtls().GetMode().String(); mode != "STRICT" {
		t.Errorf("mutual TLS is %s", mode)
	}
	routed := map[string]int{}
	for _, route := range one[*networkingv1.VirtualService](t, objects).Spec.GetHttp() {
		changes := route.GetName() == "rest-changes"
		for _, match := range route.GetMatch() {
			if method, ok := strings.CutPrefix(match.GetUri().GetExact(), "/"+service+"/"); ok {
				routed[method]++
				changes = changes || methods()[method]
			}
		}
		if route.GetRetries() == nil || changes && route.GetRetries().GetAttempts() != 0 {
			t.Errorf("%s is repeated: %v", route.GetName(), route.GetRetries())
		}
		if d := route.GetTimeout().AsDuration().Seconds(); route.GetName() != "grpc-besides" && d <= 60 {
			t.Errorf("%s ends after %v s, before the program says what happened", route.GetName(), d)
		}
	}
	allowed := map[string]bool{}
	for _, rule := range one[*securityv1.AuthorizationPolicy](t, objects).Spec.GetRules() {
		for _, to := range rule.GetTo() {
			for _, path := range to.GetOperation().GetPaths() {
				if method, ok := strings.CutPrefix(path, "/"+service+"/"); ok {
					allowed[method] = true
				}
			}
			if len(rule.GetFrom()) == 0 && !slices.Equal(to.GetOperation().GetPorts(), []string{"9464"}) {
				t.Errorf("anybody may: %v", to)
			}
		}
	}
	for method := range methods() {
		if routed[method] != 1 || !allowed[method] {
			t.Errorf("%s has %d routes; somebody may call it: %v", method, routed[method], allowed[method])
		}
	}
}

// With Linkerd the same.
func TestLinkerd(t *testing.T) {
	routed := map[string]int{}
	for _, o := range objectsOf(t, "../../deploy/linkerd/teamtoken.yaml") {
		route, ok := o.(*gatewayv1.GRPCRoute)
		if !ok || *route.Spec.ParentRefs[0].Kind != "Service" {
			continue
		}
		for _, rule := range route.Spec.Rules {
			for _, match := range rule.Matches {
				method := *match.Method.Method
				routed[method]++
				for key := range route.Annotations {
					if methods()[method] && strings.HasPrefix(key, "retry.linkerd.io/") {
						t.Errorf("%s is repeated", method)
					}
				}
			}
		}
		if route.Annotations["timeout.linkerd.io/request"] != "65s" {
			t.Errorf("%s ends before the program says what happened", route.Name)
		}
	}
	for method := range methods() {
		if routed[method] != 1 {
			t.Errorf("%s has %d routes", method, routed[method])
		}
	}
}
