// Package budget keeps all that the replicas ask of the upstream within a rate,
// and shares it out fairly among those who call.
//
// Its promises:
//
//   - Requests leave at an even pace, which is one for all replicas: the pace is
//     kept in the state that they share. While that can't be asked, each replica
//     goes on with its own part of the rate.
//   - Callers take turns, however many calls one of them has waiting. Changes go
//     before reads.
//   - A call waits no longer than until its deadline, and is then told how long the
//     wait would have been.
//   - What the upstream says of its limit is believed if it is lower than the rate,
//     and after a 429 nobody asks before the time that it named.
//   - A budget is one credential's, since the upstream counts by whose it is.
package budget
