// Package state is what the replicas of the service have to agree on: who has the lock
// of a team, which operation was begun and not ended, what was answered under an
// idempotency key, and how often the upstream may be asked.
//
// Its promises, for both stores:
//
//   - A team's lock is held by one owner at a time. Acquire gives it and, in the same
//     step, writes down what is about to be done; Release gives it back and, in the same
//     step, writes down what came of it. A lock that is not renewed ends by itself, and
//     the operation that was begun under it is then in doubt, for whoever comes first to
//     resolve.
//   - Each lock has a fencing token, higher than that of any lock of the team before.
//     Release and Renew with an older one do nothing and say so.
//   - An operation in doubt keeps everybody else from the team for the hold, but for
//     those who look whether its outcome is known by now, one at a time.
//   - Under an idempotency key there is one change, until it is forgotten.
//   - All times are of one clock: the process's, or Redis's.
//
// It stores no secret in the clear: an answer is sealed before it comes here. What
// Redis is given that leads to an action or an answer is sealed as well, and believed
// only where it was put: sealed.go says how.
//
// What Redis has acknowledged and lost, in a failover or for want of persistence,
// is lost here too: docs/semantics.md says what that can lead to.
package state
