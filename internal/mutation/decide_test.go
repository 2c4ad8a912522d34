package mutation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/apierror"
)

// The words of the table below.
var (
	kindWords   = map[string]Kind{"Generate": Generate, "Delete": Delete, "Create": Create, "DeleteByID": DeleteByID}
	answerWords = map[string]answer{
		"OK": answerOK, "OK-unread": answerNoReader, "invalid": answerInvalid, "refused": answerRefused, "404": answerNotFound,
		"lost": answerLost, "resolving": answerResolving,
	}
	sightWords = map[string]sight{
		"-": notRead, "not-seen": notSeen, "ours": ours, "in-use": oursInUse, "none-before": noneBefore,
		"read-fails": readFailed, "denied": readDenied, "another-credential": anotherCreds,
	}
	flagWords = map[string]func(*situation){
		"hold-over": func(s *situation) { s.holdOver = true },
		"earlier":   func(s *situation) { s.earlier = true },
		"again":     func(s *situation) { s.again = true },
		"removed":   func(s *situation) { s.orphan = orphanRemoved },
		"remains":   func(s *situation) { s.orphan = orphanRemains },
	}
	actionWords = map[action]string{
		observeFirst: "observe", deleteOrphan: "delete-orphan", sendAgain: "send-again", release: "release", hold: "hold", giveUp: "give-up",
	}
)

// What becomes of a change: KINDS ANSWER SEEN [FLAGS] => ACTION [RECORD] [TOLD].
// docs/semantics.md tells the same to callers.
func TestDecisions(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(`
		Generate,Delete,Create,DeleteByID OK -           => release done applied
		Create              OK-unread -                  => delete-orphan
		Create              OK-unread - removed          => release applied_undelivered
		Create              OK-unread - remains          => hold applied_undelivered

		Generate,Delete,Create,DeleteByID refused -      => release forget not_applied
		Generate,Delete,Create,DeleteByID 404 -          => release forget not_applied
		Generate            refused - earlier            => release lost applied_undelivered
		Generate            404 - earlier                => release lost applied_undelivered
		Create              refused - earlier            => release forget applied_undelivered
		DeleteByID          refused - earlier            => release unknown
		DeleteByID          404 - earlier                => release applied

		Generate,Create     invalid -                    => observe
		Generate,Create     invalid read-fails           => hold applied_undelivered
		Generate,Create     invalid denied               => hold applied_undelivered
		Generate            invalid ours                 => release done applied_undelivered
		Generate            invalid not-seen             => release done applied_undelivered
		Create              invalid not-seen             => hold applied_undelivered
		Create              invalid ours                 => delete-orphan
		Create              invalid ours remains         => hold applied_undelivered
		Create              invalid ours removed         => release done applied_undelivered

		Generate,Delete,Create,DeleteByID lost -         => observe
		Generate,Delete,Create lost read-fails           => hold unknown
		Generate,Delete,Create lost read-fails again     => hold unknown
		Generate,Delete,Create lost not-seen             => hold unknown
		Generate,Delete,Create lost not-seen again       => hold unknown
		Generate            lost ours again              => send-again
		Generate            lost ours                    => release lost applied_undelivered
		Create              lost ours,in-use again       => delete-orphan
		Create              lost ours again remains      => hold unknown
		Create              lost ours again removed      => send-again
		Create              lost ours removed            => release forget applied_undelivered
		Delete              lost ours                    => release applied
		Delete              lost none-before             => hold applied
		DeleteByID          lost ours                    => release applied
		DeleteByID          lost not-seen,read-fails,denied again => send-again
		DeleteByID          lost not-seen,read-fails     => release unknown

		Generate,Delete,Create,DeleteByID resolving -    => observe
		Generate,Delete,Create,DeleteByID resolving another-credential => hold unknown
		Generate,Delete,Create,DeleteByID resolving another-credential hold-over => give-up forget unknown
		Generate,Delete,Create resolving read-fails      => hold unknown
		Generate,Delete,Create resolving read-fails hold-over => hold unknown
		Generate,Delete,Create resolving denied          => hold unknown
		Generate,Delete,Create resolving denied hold-over => give-up forget unknown
		Generate,Delete,Create resolving not-seen        => hold unknown
		Generate,Delete,Create resolving not-seen hold-over => release forget not_applied
		Generate            resolving ours               => release lost applied_undelivered
		Create              resolving ours               => delete-orphan
		Create              resolving ours removed       => release forget applied_undelivered
		Create              resolving ours remains       => hold unknown
		Create              resolving in-use             => release forget applied
		Delete              resolving ours               => release applied
		Delete              resolving none-before        => hold unknown
		Delete              resolving none-before hold-over => release applied
		DeleteByID          resolving ours               => release applied
		DeleteByID          resolving read-fails,denied  => give-up forget unknown
		DeleteByID          resolving not-seen           => release unknown
	`), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		left, want, _ := strings.Cut(line, "=>")
		words := strings.Fields(left)
		for _, kind := range strings.Split(words[0], ",") {
			for _, seen := range strings.Split(words[2], ",") {
				s := situation{kind: kindWords[kind], answer: answerWords[words[1]], seen: sightWords[seen], orphan: orphanThere}
				s.resolving = s.answer == answerResolving
				for _, flag := range words[3:] {
					flagWords[flag](&s)
				}
				if s.kind == 0 || s.answer == 0 || s.seen == 0 {
					t.Fatalf("a word of %q is unknown", line)
				}
				d := decide(s)
				got := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", actionWords[d.do], d.record, d.told)), " ")
				if got != strings.TrimSpace(want) {
					t.Errorf("%s %s %s: %s; want %s", kind, seen, strings.Join(words[1:], " "), got, strings.TrimSpace(want))
				}
			}
		}
	}
}

// situations are all that can be.
func situations(visit func(situation)) {
	flag := []bool{false, true}
	for _, kind := range kindWords {
		for _, given := range answerWords {
			for _, seen := range sightWords {
				for _, o := range []orphan{orphanThere, orphanRemoved, orphanRemains} {
					for bits := range 8 {
						s := situation{
							kind: kind, answer: given, seen: seen, orphan: o, resolving: given == answerResolving,
							holdOver: flag[bits&1], earlier: flag[bits>>1&1], again: flag[bits>>2&1],
						}
						if possible(s) {
							visit(s)
						}
					}
				}
			}
		}
	}
}

// possible leaves out what contradicts itself.
func possible(s situation) bool {
	read := s.seen != notRead
	switch {
	case s.holdOver && !s.resolving, s.seen == anotherCreds && !s.resolving:
		return false
	case s.earlier && (s.kind == Delete || s.resolving): // a Delete is never sent again
		return false
	case s.seen == oursInUse && s.kind != Create, s.seen == noneBefore && s.kind != Delete:
		return false
	case s.answer == answerNoReader && (s.kind != Create || read), s.answer == answerInvalid && s.kind&anyDelete != 0:
		return false
	case s.answer&(answerOK|anyRefusal) != 0 && read, s.resolving && s.again:
		return false
	case s.orphan != orphanThere && (s.kind != Create || s.seen&(ours|oursInUse) == 0 && s.answer != answerNoReader):
		return false
	}
	return true
}

// Each situation has a row, each row a situation, and none contradicts what is
// promised.
func TestEverySituationHasARow(t *testing.T) {
	used := map[int]bool{}
	n := 0
	situations(func(s situation) {
		n++
		first := -1
		for i := range decisions {
			if decisions[i].fits(s) {
				first = i
				break
			}
		}
		if first < 0 {
			t.Errorf("no row for %+v", s)
			return
		}
		used[first] = true
		d := decide(s)
		for _, broken := range []struct {
			promise string
			is      bool
		}{
			{"not_applied is never said after an earlier attempt was carried out", d.told == apierror.NotApplied && s.earlier},
			{"not_applied is said of a lost answer only when the hold is over", d.told == apierror.NotApplied && s.answer == answerLost},
			{"not_applied is resolved only when the hold is over", d.told == apierror.NotApplied && s.resolving && !s.holdOver},
			{"a Delete or a Generate is not sent again while the one before may come", d.do == sendAgain && s.kind != DeleteByID && s.seen&(ours|oursInUse) == 0},
			{"nothing is sent again without a caller", d.do == sendAgain && !s.again},
			{"an orphan is deleted once", d.do == deleteOrphan && s.orphan != orphanThere},
			{"it is read once", d.do == observeFirst && s.seen != notRead},
			{"a decision that ends says what it ends as", (d.do == release || d.do == hold || d.do == giveUp) && d.told == ""},
			{"a decision that goes on says nothing", d.do != release && d.do != hold && d.do != giveUp && (d.told != "" || d.record != "")},
			{"a lost secret is only of the team's one token", d.record == secretLost && s.kind != Generate},
		} {
			if broken.is {
				t.Errorf("row %d breaks %q: %+v for %+v", first, broken.promise, d, s)
			}
		}
	})
	for i := range decisions {
		if !used[i] {
			t.Errorf("row %d fits no situation first: %+v", i, decisions[i])
		}
	}
	t.Logf("%d situations, %d rows", n, len(decisions))
}
