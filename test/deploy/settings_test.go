package deploy

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/policy"
)

// taken checks that the program takes what the pod gives it: the variables, the file
// of settings, with every file that this names mounted, and the policy.
func taken(t *testing.T, deployment *appsv1.Deployment, objects []any) {
	t.Helper()
	pod := deployment.Spec.Template.Spec
	maps := map[string]map[string]string{}
	for _, o := range objects {
		if m, ok := o.(*corev1.ConfigMap); ok {
			maps[m.Name] = m.Data
		}
	}
	mounted := map[string]corev1.Volume{} // by the directory
	for _, v := range pod.Volumes {
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == v.Name {
				mounted[m.MountPath] = v
			}
		}
	}
	env := map[string]string{}
	for _, v := range pod.Containers[0].Env {
		env[v.Name] = v.Value
	}
	file := env["TEAMTOKEN_CONFIG"]
	volume := mounted[path.Dir(file)]
	if volume.ConfigMap == nil {
		t.Fatalf("nothing is mounted where %s is to be", file)
	}
	settings := maps[volume.ConfigMap.Name][path.Base(file)]
	local := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(local, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	env["TEAMTOKEN_CONFIG"] = local
	cfg, err := config.Load(nil, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, io.Discard, "test")
	if err != nil {
		t.Fatalf("the program does not take its settings: %v\n%s", err, settings)
	}
	for _, file := range []string{
		cfg.TFETokenFile, cfg.TFECAFile, cfg.PolicyFile, cfg.StateKeyFile, cfg.StatePasswordFile, cfg.StateCAFile,
		cfg.StateTLSCertFile, cfg.StateTLSKeyFile,
		cfg.TLSCertFile, cfg.TLSKeyFile, cfg.TLSClientCAFile,
	} {
		if v := mounted[path.Dir(file)]; file != "" && v.Secret == nil && v.ConfigMap == nil {
			t.Errorf("nothing is mounted where %s is to be", file)
		}
	}
	for name, data := range maps {
		if text, ok := data["policy.yaml"]; ok {
			if _, err := policy.Parse([]byte(text)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for key, text := range data {
			if strings.Contains(text, "PRIVATE KEY") {
				t.Errorf("%s/%s holds a secret", name, key)
			}
		}
	}
	_, admin, _ := strings.Cut(cfg.AdminAddress, ":")
	for _, port := range pod.Containers[0].Ports {
		if port.Name == "admin" && admin != "9464" {
			t.Errorf("the admin listener is on %s, and the port says %d", cfg.AdminAddress, port.ContainerPort)
		}
	}
	probe := pod.Containers[0].ReadinessProbe
	if grpc := probe.GRPC != nil; grpc == (cfg.TLSCertFile != "") {
		t.Error("Kubernetes' gRPC probe knows no TLS, and is to be used without")
	}
	if int64(cfg.ShutdownDelay.Seconds())+35 != *pod.TerminationGracePeriodSeconds {
		t.Errorf("the delay is %v, and all is over after %d s", cfg.ShutdownDelay, *pod.TerminationGracePeriodSeconds)
	}
}
