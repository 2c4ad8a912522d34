// Package mutation carries out one change of a team at a time, at most once for each
// idempotency key, and resolves those whose answer was lost.
//
// It promises:
//
//   - A change goes on when its caller leaves, and Drain waits for it. A caller whose
//     deadline ends first is told that the outcome is unknown.
//   - A change is alone with its team, among all replicas that share a state.Store, and
//     is written down there before it is sent. Who calls the upstream directly can
//     still come between.
//   - Under one idempotency key of one caller there is one change upstream, whose
//     result is given again for as long as it is true. It is made again only where its
//     answer was lost, and what it made is of no use to anybody: the audit has that.
//   - After an answer that was lost the truth is read back. Until it is known, or can't
//     come any more, nobody else changes the team. What a replica left that died is
//     resolved by another.
//
// What becomes of a change is decided in one table, decisions.
package mutation
