// Package upstream calls the Team Token API of HCP Terraform or Terraform
// Enterprise.
//
// Its promises:
//
//   - Nothing is sent twice once it may have been applied. Only a call that reads
//     is repeated after a failure, and a call that changes something only after
//     an answer that says that it was not carried out (401 with a credential
//     that has been rotated, 429). Changes go over HTTP/1.1, see NewTransport.
//   - A call that changes something is not cut off by its caller once it has a
//     connection; Options.Timeout bounds it.
//   - Every failure is an *Error whose Kind says what is known: UNAVAILABLE in the
//     answer to a caller rests on Unreachable meaning that nothing was sent.
//   - Paths are made only of TeamID and the like, which cannot hold anything but
//     a checked id: a `..` would reach the token of a whole organization.
//   - Redirects are not followed: a credential would go with them.
//   - A secret is a secret.Text from the moment it is decoded.
//
// What is known of the API, and where it comes from:
//
//   - The paths, documents and status codes: the vendor's documentation of the
//     Team Token API (developer.hashicorp.com/terraform/cloud-docs/api-docs/team-tokens)
//     and its OpenAPI document.
//   - 404 stands for "missing" and for "not allowed"; some servers say 403.
//   - 429 comes with X-RateLimit-Reset, in seconds, maybe fractional.
//   - An `errors[].status` may be a string or a number. `detail` may hold a stack
//     trace or SQL on some servers, so that no word of it is ever passed on.
//   - Some servers refuse to generate without a body, so one is always sent.
//   - A token that was never used has `last-used-at` null, or on some servers the
//     year 1. A token without a secret has `token` null, or on some an empty one.
package upstream
