package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/teamtoken/teamtoken/internal/audit"
	"github.com/teamtoken/teamtoken/internal/config"
	"github.com/teamtoken/teamtoken/internal/server"
	"github.com/teamtoken/teamtoken/internal/telemetry"
	"github.com/teamtoken/teamtoken/internal/watch"
)

// reloader reads files, follows their changes until ctx ends, and logs them.
type reloader struct {
	ctx     context.Context //nolint:containedctx // the program's own life
	log     *slog.Logger
	metrics *telemetry.Metrics
}

func (f reloader) onReload(what string) func(error) {
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
func follow[T any](f reloader, setting string, paths []string, load func(contents [][]byte) (T, error)) (*watch.Value[T], error) {
	value, err := watch.Files(f.ctx, paths, load, f.onReload(setting))
	if err != nil {
		return nil, err
	}
	f.metrics.File(setting, value.Since)
	return value, nil
}

// warnIfReadable warns of a file of secrets that others than this user may read. A file of
// another's, root's in a Kubernetes volume, is read by the rights of its group.
func (f reloader) warnIfReadable(setting, path string) {
	info, err := os.Stat(path)
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

// reopenOnSIGHUP opens the audit log anew at each SIGHUP, once whoever rotates it has
// moved it away.
func (f reloader) reopenOnSIGHUP(log *audit.Log) {
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
			if err := log.Reopen(); err != nil {
				f.log.Error("the audit log can't be opened anew, the old file stays in use", telemetry.KeyError, err)
				continue
			}
			f.log.Info("the audit log is opened anew")
		}
	}()
}

func certificates(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the file holds no PEM certificate")
	}
	return pool, nil
}

// tls is nil where no certificate is configured.
func (f reloader) tls(cfg *config.Config) (*tls.Config, error) {
	if cfg.SPIFFESocket != "" {
		return f.spiffe(cfg)
	}
	if cfg.TLSCertFile == "" {
		return nil, nil
	}
	f.warnIfReadable("TEAMTOKEN_TLS_KEY_FILE", cfg.TLSKeyFile)
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
