// Package service carries out the RPCs of teamtoken.v1.TeamTokenService.
//
// It promises:
//
//   - A malformed request is refused with every field that is wrong, before
//     anything is done.
//   - A call that changes something is carried on when its caller leaves, and
//     Drain waits for it. A caller whose deadline ends first is told that the
//     outcome is unknown.
//   - A change with `expected_token_id` is alone with its team in this process, so
//     that what is compared is what is then replaced. Another process, or whoever
//     calls the upstream directly, can still come between.
//   - Under one `request_id` of one caller there is one change upstream, whose
//     answer is given again as long as it is true. This is kept in memory, for
//     ten minutes: another process knows nothing of it.
//   - An answer says what the upstream said, never what was asked for.
package service
