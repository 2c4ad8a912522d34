package upstream

import "github.com/teamtoken/teamtoken/internal/secret"

// FixedCredential is a Credential that is never rotated.
type FixedCredential struct{ secret.Text }

// Get returns the secret.
func (c FixedCredential) Get() secret.Text { return c.Text }

// Refresh reports that there is no other.
func (c FixedCredential) Refresh() bool { return false }
