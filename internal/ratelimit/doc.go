// Package ratelimit keeps all that the replicas ask of the upstream within a rate,
// and shares it out fairly among those who call.
//
// Its promises:
//
//   - Requests leave at an even pace, which is one for all replicas: the pace is
//     kept in the state that they share. While that can't be asked, each replica
//     goes on with its own part of the rate.
//   - Callers take turns, however many calls one of them has waiting. While changes
//     and reads wait, three changes go for each read: neither starves.
//   - A call waits no longer than until its deadline, and is then told how long the
//     wait would have been, and whether its own calls, those of all callers or the
//     upstream's own limit kept it waiting.
//   - A limit is one credential's, since the upstream counts by whose it is. What the
//     upstream says of its limit with a good answer is believed of that credential,
//     from 1 a second up to the rate that is set, until it says something else. After
//     a 429 nobody asks with that credential before the time that it named, a minute
//     at the most.
//   - Memory is bounded, whatever credentials callers make up.
package ratelimit
