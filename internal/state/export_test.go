package state

import "github.com/teamtoken/teamtoken/internal/secret"

// CheckURL is an error if OpenRedis would not take the URL: no test has a server for each.
func CheckURL(text secret.Text) error {
	_, err := options(text)
	return err
}
