// Package service carries out the RPCs of teamtoken.v1.TeamTokenService.
//
// It promises:
//
//   - A malformed request is refused with every field that is wrong, before
//     anything is done.
//   - A call that changes something is carried on when its caller leaves, and
//     Drain waits for it. A caller whose deadline ends first is told that the
//     outcome is unknown.
//   - A change is alone with its team, among all replicas that share a
//     state.Store, and is written down there before it is sent. Who calls the
//     upstream directly can still come between.
//   - Under one `request_id` of one caller there is one change upstream, whose
//     answer is given again as long as it is true. It is made again only where its
//     answer was lost, and what it made is of no use to anybody: that is audited.
//   - After an answer that was lost the truth is read back. Until it is known, or
//     can't come any more, the team is held back; what a replica left that died is
//     found out by another.
//   - An answer says what the upstream said, never what was asked for.
package service
