// Package state is what the replicas of the service have to agree on: whose turn
// it is to change a team's token, what has been begun and not ended, what was
// answered under a request id, and how often the upstream may be asked.
//
// Its promises, for both stores:
//
//   - A team's turn is held by one at a time. Begin gives it and, in the same step,
//     writes down what is about to be done; End gives it back and, in the same step,
//     writes down what came of it. A turn that is not renewed ends by itself, and
//     what was begun under it is then there to be settled, by whoever comes first.
//   - Each turn has an epoch, higher than that of any turn of the team before. End
//     and Renew with an older one do nothing and say so.
//   - An unknown outcome keeps everybody else from the team for the hold, but for
//     those who look whether it is known by now, one at a time.
//   - Under a request id there is one change, until it is forgotten.
//   - All times are of one clock: the process's, or Redis's.
//
// It stores no secret in the clear: an answer is sealed before it comes here. What
// Redis is given that leads to an action or an answer is sealed as well, and believed
// only where it was put: sealed.go says how.
//
// What Redis has acknowledged and lost, in a failover or for want of persistence,
// is lost here too: docs/semantics.md says what that can lead to.
package state
