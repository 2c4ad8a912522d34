package mutation

import (
	"slices"

	"github.com/teamtoken/teamtoken/internal/apierror"
	"github.com/teamtoken/teamtoken/internal/state"
)

// situation is all that a decision about a change depends on.
type situation struct {
	kind      Kind
	resolving bool   // afterwards, and not in the call that sent it
	answer    answer // the upstream's, unless resolving
	seen      sight
	holdOver  bool // resolving: a lost request can't be carried out any more
	earlier   bool // an earlier attempt of the same request was carried out, or for DeleteByID lost
	again     bool // the caller is there, and fewer than maxAttempts were sent
	orphan    orphan
}

// answer is what the upstream said. Answers can be joined to a set.
type answer uint8

const (
	answerOK        answer = 1 << iota
	answerNoReader         // OK, a token that nobody is there to be given, nor can ask for again
	answerInvalid          // OK, and the token can't be used
	answerRefused          // for certain nothing was changed
	answerNotFound         // 404, which is a refusal as well
	answerLost             // none, or none that says what was done
	answerResolving        // none, since it is resolved: as situation.resolving
)

// sight is what was read back of a change. Sights can be joined to a set.
type sight uint16

const (
	notRead      sight = 1 << iota
	notSeen            // what it was to do is not done
	ours               // it was carried out
	oursInUse          // Create: and somebody has used the token, so that it was delivered
	noneBefore         // Delete: there is no token, and none was known before
	readFailed         // nothing could be read
	readDenied         // nothing can be read: the upstream says no, and will again
	cantTell           // there is a token that may be its own, and no times to tell by
	anotherCreds       // it was made with another credential, which alone can tell
)

// orphan is what became of the token that a Create left. They can be joined to a set.
type orphan uint8

const (
	orphanThere orphan = 1 << iota
	orphanRemoved
	orphanRemains // it could not be deleted
)

// observation is what was read back.
type observation struct {
	seen    sight
	tokenID string // that the operation made
	current string // the id of the team's token, or state.NoToken; empty if it was not read
}

// action is what to do next.
type action uint8

const (
	observeFirst action = iota + 1 // read back, and decide again
	deleteOrphan                   // delete the token that the operation made, and decide again
	sendAgain                      // send it again; if that is forbidden, decide again
	release                        // give the lock back: it is known what became of the operation
	hold                           // give the lock back in doubt: nobody else changes the team until it is resolved
	giveUp                         // give the lock back: nobody can find out any more
)

// decision is what to do next, what the record of the idempotency key says from then
// on, and what the caller, or if he has been answered the audit, is told.
type decision struct {
	do     action
	record state.RecordState
	told   apierror.Outcome
}

// ok is the outcome of a change that was carried out with nothing left to deliver.
const ok = apierror.Applied

// answered is the answer that rows are held against, also while resolving.
func (s situation) answered() answer {
	if s.resolving {
		return answerResolving
	}
	return s.answer
}

// decide returns the decision of the first row that fits. Every situation has one, as a
// test shows; without one the panic would leave the change in doubt.
func decide(s situation) decision {
	return decisions[slices.IndexFunc(decisions[:], func(r row) bool { return r.fits(s) })].decision
}

// row is one line of the table. A field that is zero fits everything.
type row struct {
	kinds    Kind
	answers  answer
	seen     sight
	holdOver want
	earlier  want
	again    want
	orphan   orphan
	decision
}

// want is what a row wants of something that is true or false; zero is either.
type want uint8

const (
	yes want = iota + 1
	no
)

func (w want) fits(b bool) bool { return w == 0 || (w == yes) == b }

func (r row) fits(s situation) bool {
	return (r.kinds == 0 || r.kinds&s.kind != 0) &&
		(r.answers == 0 || r.answers&s.answered() != 0) &&
		(r.seen == 0 || r.seen&s.seen != 0) &&
		r.holdOver.fits(s.holdOver) && r.earlier.fits(s.earlier) && r.again.fits(s.again) &&
		(r.orphan == 0 || r.orphan&s.orphan != 0)
}

const (
	anyDelete  = Delete | DeleteByID
	anyRefusal = answerRefused | answerNotFound
	unreadable = readFailed | readDenied
	none       = state.RecordState("") // the record stays as it is
	reset      = state.RecordReset
	completed  = state.RecordCompleted
	secretLost = state.RecordSecretLost
)

// decisions are what becomes of a change: the first row that fits. docs/semantics.md tells
// callers what comes of it.
var decisions = [...]row{
	// The upstream answered.
	{answers: answerOK, decision: decision{release, completed, ok}},
	{answers: answerNoReader, orphan: orphanThere, decision: decision{deleteOrphan, none, ""}},
	{answers: answerNoReader, orphan: orphanRemoved, decision: decision{release, none, apierror.AppliedUndelivered}},
	{answers: answerNoReader, orphan: orphanRemains, decision: decision{hold, none, apierror.AppliedUndelivered}},
	{kinds: DeleteByID, answers: answerNotFound, earlier: yes, decision: decision{release, none, ok}},
	{answers: anyRefusal, earlier: no, decision: decision{release, reset, apierror.NotApplied}},
	{kinds: Generate, answers: anyRefusal, decision: decision{release, secretLost, apierror.AppliedUndelivered}},
	{kinds: Create, answers: anyRefusal, decision: decision{release, reset, apierror.AppliedUndelivered}}, // the orphan was removed
	{kinds: anyDelete, answers: anyRefusal, decision: decision{release, none, apierror.Unknown}},

	// It answered OK with a token that can't be used.
	{answers: answerInvalid, seen: notRead, decision: decision{observeFirst, none, ""}},
	{answers: answerInvalid, seen: unreadable, decision: decision{hold, none, apierror.AppliedUndelivered}},
	{kinds: Create, answers: answerInvalid, seen: notSeen | cantTell, decision: decision{hold, none, apierror.AppliedUndelivered}},
	{kinds: Create, answers: answerInvalid, orphan: orphanThere, decision: decision{deleteOrphan, none, ""}},
	{kinds: Create, answers: answerInvalid, orphan: orphanRemains, decision: decision{hold, none, apierror.AppliedUndelivered}},
	{answers: answerInvalid, decision: decision{release, completed, apierror.AppliedUndelivered}},

	// The answer was lost.
	{answers: answerLost, seen: notRead, decision: decision{observeFirst, none, ""}},
	{kinds: anyDelete, answers: answerLost, seen: ours, decision: decision{release, none, ok}},
	{kinds: DeleteByID, answers: answerLost, again: yes, decision: decision{sendAgain, none, ""}}, // late it does no harm
	{kinds: DeleteByID, answers: answerLost, decision: decision{release, none, apierror.Unknown}},
	{kinds: Delete, answers: answerLost, seen: noneBefore, decision: decision{hold, none, ok}}, // as was asked for; it may still be on its way
	{answers: answerLost, seen: unreadable | notSeen, decision: decision{hold, none, apierror.Unknown}},
	{answers: answerLost, seen: cantTell, decision: decision{hold, none, apierror.Unknown}},
	{kinds: Create, answers: answerLost, orphan: orphanThere, decision: decision{deleteOrphan, none, ""}},
	{kinds: Create, answers: answerLost, orphan: orphanRemains, decision: decision{hold, none, apierror.Unknown}},
	{kinds: Generate | Create, answers: answerLost, again: yes, decision: decision{sendAgain, none, ""}},
	{kinds: Generate, answers: answerLost, decision: decision{release, secretLost, apierror.AppliedUndelivered}},
	{kinds: Create, answers: answerLost, decision: decision{release, reset, apierror.AppliedUndelivered}},

	// It is resolved.
	{answers: answerResolving, seen: anotherCreds, holdOver: no, decision: decision{hold, none, apierror.Unknown}},
	{answers: answerResolving, seen: anotherCreds, decision: decision{giveUp, reset, apierror.Unknown}},
	{answers: answerResolving, seen: notRead, decision: decision{observeFirst, none, ""}},
	{kinds: anyDelete, answers: answerResolving, seen: ours, decision: decision{release, none, ok}},
	{kinds: DeleteByID, answers: answerResolving, seen: unreadable, decision: decision{giveUp, reset, apierror.Unknown}},
	{kinds: DeleteByID, answers: answerResolving, decision: decision{release, none, apierror.Unknown}},
	{answers: answerResolving, seen: readDenied, holdOver: yes, decision: decision{giveUp, reset, apierror.Unknown}},
	{answers: answerResolving, seen: unreadable, decision: decision{hold, none, apierror.Unknown}},
	{kinds: Create, answers: answerResolving, seen: oursInUse, decision: decision{release, reset, ok}}, // what the store says is older than the truth
	{kinds: Create, answers: answerResolving, seen: ours, orphan: orphanThere, decision: decision{deleteOrphan, none, ""}},
	{kinds: Create, answers: answerResolving, seen: ours, orphan: orphanRemains, decision: decision{hold, none, apierror.Unknown}},
	{kinds: Create, answers: answerResolving, seen: ours, decision: decision{release, reset, apierror.AppliedUndelivered}},
	{kinds: Generate, answers: answerResolving, seen: ours, decision: decision{release, secretLost, apierror.AppliedUndelivered}},
	{answers: answerResolving, holdOver: no, decision: decision{hold, none, apierror.Unknown}},
	{answers: answerResolving, seen: cantTell, decision: decision{giveUp, reset, apierror.Unknown}},
	{kinds: Delete, answers: answerResolving, seen: noneBefore, decision: decision{release, none, ok}},
	{answers: answerResolving, decision: decision{release, reset, apierror.NotApplied}},
}
