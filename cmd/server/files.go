package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/secret"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/simulator"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/upstream"
	"github.com/teamtoken/teamtoken/internal/watch"
)

// follower reads files, follows their changes until ctx ends, and logs them.
type follower struct {
	ctx     context.Context //nolint:containedctx // the program's own life
	log     *slog.Logger
	metrics *telemetry.Metrics
}

func (f follower) changed(what string) func(error) {
	return func(err error) {
		f.metrics.Reload(what, err == nil)
		if err != nil {
			f.log.Error("a changed file cannot be used, the last good one stays in use", telemetry.KeySetting, what, telemetry.KeyError, err)
			return
		}
		f.log.Info("a changed file is in use", telemetry.KeySetting, what)
	}
}

// follow keeps a value that follows the files of a setting. Its error does not name
// the setting.
func follow[T any](f follower, setting string, paths []string, load func(contents [][]byte) (T, error)) (*watch.Value[T], error) {
	value, err := watch.Files(f.ctx, paths, load, f.changed(setting))
	if err != nil {
		return nil, err
	}
	f.metrics.File(setting, value.Since)
	return value, nil
}

// private warns of a file of secrets that others than this user may read. A file of
// another's, root's in a Kubernetes volume, is read by the rights of its group.
func (f follower) private(setting, path string) {
	info, err := os.Stat(path) //nolint:gosec // which files are read is what settings are for
	if err != nil {
		return // and so can't be read, which is told where it is
	}
	others := os.FileMode(0o077)
	if !ours(info) {
		others = 0o037
	}
	if info.Mode().Perm()&others != 0 {
		f.log.Warn("a file that holds a secret can be read by others: chmod 0600, or defaultMode 0440 of a Kubernetes volume",
			telemetry.KeySetting, setting, "mode", info.Mode().Perm().String())
	}
}

// reopen opens the audit log anew at each SIGHUP, once whoever rotates it has
// moved it away.
func (f follower) reopen(book *audit.Log) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
			case <-f.ctx.Done():
				return
			}
			if err := book.Reopen(); err != nil {
				f.log.Error("the audit log can't be opened anew, the old file stays in use", telemetry.KeyError, err)
				continue
			}
			f.log.Info("the audit log is opened anew")
		}
	}()
}

// upstream is the address to call and the service's own credential, which is nil
// where callers bring theirs. With the simulator, it starts that.
func (f follower) upstream(cfg *config.Config) (address string, credential upstream.Credential, err error) {
	switch {
	case cfg.Simulator:
		sim := simulator.New(simulator.Options{})
		address, err := sim.Listen("127.0.0.1:0")
		return address, upstream.FixedCredential{Text: sim.UserToken()}, err
	case cfg.Credentials == config.CallerCredentials:
		return cfg.TFEAddress, nil, nil
	case cfg.TFETokenFile == "":
		return cfg.TFEAddress, upstream.FixedCredential{Text: cfg.TFEToken}, nil
	}
	f.private("TFE_TOKEN_FILE", cfg.TFETokenFile)
	token, err := follow(f, "TFE_TOKEN_FILE", []string{cfg.TFETokenFile}, func(contents [][]byte) (secret.Text, error) {
		return config.Bearer(string(contents[0]))
	})
	if err != nil {
		return "", nil, fmt.Errorf("TFE_TOKEN_FILE (--tfe-token-file): %w", err)
	}
	return cfg.TFEAddress, token, nil
}

// transport gives the transport to the upstream, which is a new one when the
// file of CAs changes.
func (f follower) transport(caFile string) (func() http.RoundTripper, error) {
	if caFile == "" {
		t := upstream.NewTransport(nil)
		return func() http.RoundTripper { return t }, nil
	}
	value, err := follow(f, "TFE_CA_FILE", []string{caFile}, func(contents [][]byte) (*upstream.Transport, error) {
		pool, err := certificates(contents[0])
		if err != nil {
			return nil, err
		}
		return upstream.NewTransport(pool), nil
	})
	if err != nil {
		return nil, fmt.Errorf("TFE_CA_FILE (--tfe-ca-file): %w", err)
	}
	return func() http.RoundTripper { return value.Get() }, nil
}

func certificates(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the file holds no PEM certificate")
	}
	return pool, nil
}

// tls is nil where no certificate is configured.
func (f follower) tls(cfg *config.Config) (*tls.Config, error) {
	if cfg.SPIFFESocket != "" {
		return f.spiffe(cfg)
	}
	if cfg.TLSCertFile == "" {
		return nil, nil
	}
	f.private("TEAMTOKEN_TLS_KEY_FILE", cfg.TLSKeyFile)
	pair, err := follow(f, "TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE", []string{cfg.TLSCertFile, cfg.TLSKeyFile}, func(contents [][]byte) (*tls.Certificate, error) {
		certificate, err := tls.X509KeyPair(contents[0], contents[1])
		return &certificate, err
	})
	if err != nil {
		return nil, fmt.Errorf("TEAMTOKEN_TLS_CERT_FILE, TEAMTOKEN_TLS_KEY_FILE: %w", err)
	}
	f.metrics.Certificate("TEAMTOKEN_TLS_CERT_FILE", func() time.Time { return pair.Get().Leaf.NotAfter })
	id := server.Identity{
		Certificate: func() (*tls.Certificate, error) { return pair.Get(), nil },
		Optional:    cfg.TLSClientAuth == "optional",
	}
	if cfg.TLSClientCAFile != "" {
		cas, err := follow(f, "TEAMTOKEN_TLS_CLIENT_CA_FILE", []string{cfg.TLSClientCAFile}, func(contents [][]byte) (*x509.CertPool, error) {
			return certificates(contents[0])
		})
		if err != nil {
			return nil, fmt.Errorf("TEAMTOKEN_TLS_CLIENT_CA_FILE: %w", err)
		}
		id.ClientCAs = cas.Get
	}
	return server.TLS(id), nil
}
