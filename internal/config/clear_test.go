package config_test

import (
	"slices"
	"testing"
)

// Which listeners take credentials in plain text.
func TestClears(t *testing.T) {
	jwt := map[string]string{
		"TEAMTOKEN_JWT_ISSUER": "https://issuer.example.com", "TEAMTOKEN_JWT_AUDIENCE": "a", "TEAMTOKEN_GRPC_ADDRESS": ":1", "TEAMTOKEN_HTTP_ADDRESS": ":2",
	}
	callers := map[string]string{"TFE_TOKEN": "", "TEAMTOKEN_INSECURE_ALLOW_ANY_CALLER": "", "TEAMTOKEN_CREDENTIALS": "caller"}
	mesh := func(of, listeners string) map[string]string {
		return map[string]string{"TEAMTOKEN_MESH": of, "TEAMTOKEN_MESH_LISTENERS": listeners}
	}
	at := func(grpc, http string) map[string]string {
		return map[string]string{"TEAMTOKEN_GRPC_ADDRESS": grpc, "TEAMTOKEN_HTTP_ADDRESS": http}
	}
	for _, row := range []struct {
		name string
		env  []map[string]string
		want []string // "mesh" before one that the mesh's proxy connects to
	}{
		{"JWTs, by default", []map[string]string{jwt}, []string{":1", ":2"}},
		{"callers' credentials, by default", []map[string]string{callers}, []string{":9090", ":8080"}},
		{"neither", nil, nil},
		{"loopback", []map[string]string{jwt, at("127.0.0.1:1", "localhost:2")}, nil},
		{"loopback of IPv6, and another of IPv4", []map[string]string{jwt, at("[::1]:1", "127.8.9.1:2")}, nil},
		{"one on loopback", []map[string]string{callers, at("127.0.0.1:1", "0.0.0.0:2")}, []string{"0.0.0.0:2"}},
		{"the other one on loopback", []map[string]string{jwt, at("[::]:1", "[::1]:2")}, []string{"[::]:1"}},
		{"one of the machine's own addresses", []map[string]string{jwt, at("10.0.0.1:1", "host.example.com:2")}, []string{"10.0.0.1:1", "host.example.com:2"}},
		{"TLS", []map[string]string{jwt, {"TEAMTOKEN_TLS_CERT_FILE": "c", "TEAMTOKEN_TLS_KEY_FILE": "k"}}, nil},
		{"TLS, and callers' credentials", []map[string]string{callers, {"TEAMTOKEN_TLS_CERT_FILE": "c", "TEAMTOKEN_TLS_KEY_FILE": "k"}}, nil},
		{"SPIFFE", []map[string]string{jwt, {"TEAMTOKEN_SPIFFE_SOCKET": "unix:///s"}}, nil},
		{"behind a mesh", []map[string]string{jwt, mesh("envoy", "grpc,rest")}, []string{"mesh :1", "mesh :2"}},
		{"behind a mesh, one of them", []map[string]string{jwt, mesh("linkerd", "grpc")}, []string{"mesh :1", ":2"}},
		{"a mesh alone", []map[string]string{mesh("envoy", "grpc,rest")}, nil},
	} {
		env := map[string]string{}
		for _, more := range append([]map[string]string{set}, row.env...) {
			for name, value := range more {
				env[name] = value
			}
		}
		cfg, _, err := load(nil, env)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		var got []string
		for _, c := range cfg.Clears() {
			text := c.Address
			if c.Mesh {
				text = "mesh " + text
			}
			got = append(got, text)
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
