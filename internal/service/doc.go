// Package service implements the RPCs of teamtoken.v1.TeamTokenService: it validates a
// request, asks the upstream to read or the engine to change something, and converts the
// result.
//
// A malformed request is refused with every field that is wrong, before anything is
// done. An answer says what the upstream said, never what was asked for.
package service
