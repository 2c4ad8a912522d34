package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Unseen logs, at a bounded rate, a request that was refused before it named a
// method, and so is not in the audit. message is a constant; attrs hold nothing that
// the peer chose.
type Unseen func(message string, attrs ...slog.Attr)

const (
	// unseenBurst is how many lines of one message are logged in a window.
	unseenBurst  = 10
	unseenWindow = time.Second
)

// NewUnseen returns an Unseen that logs to log. Of one message it logs ten lines in
// a second; those that it leaves out it counts, and logs their number when the
// second is over. So a flood costs eleven lines a second, and none of it is unseen.
func NewUnseen(log *slog.Logger) Unseen {
	var mu sync.Mutex
	lines := map[string]int{} // of each message, in its window
	return func(message string, attrs ...slog.Attr) {
		mu.Lock()
		if lines[message] == 0 {
			time.AfterFunc(unseenWindow, func() {
				mu.Lock()
				left := lines[message] - unseenBurst
				delete(lines, message)
				mu.Unlock()
				if left > 0 {
					log.LogAttrs(context.Background(), slog.LevelWarn, message, slog.Int(KeyLeftOut, left))
				}
			})
		}
		lines[message]++
		logged := lines[message] <= unseenBurst
		mu.Unlock()
		if logged {
			log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
		}
	}
}
