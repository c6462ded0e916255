package replication

// The kinds of messages in a stream, each the byte that begins a frame. A reader skips a kind that
// it does not know if the number is even, and refuses the stream if the number is odd. A number is
// never used again.
const (
	kindWelcome   = 1
	kindEntry     = 3
	kindRecord    = 5
	kindForget    = 7
	kindReplace   = 9
	kindMark      = 11
	kindSecrets   = 13
	kindNewPolicy = 15

	kindBeat    = 2
	kindNextPin = 4
	kindCloned  = 6
)

func (Welcome) kind() byte   { return kindWelcome }
func (Entry) kind() byte     { return kindEntry }
func (Record) kind() byte    { return kindRecord }
func (Forget) kind() byte    { return kindForget }
func (Replace) kind() byte   { return kindReplace }
func (Mark) kind() byte      { return kindMark }
func (Secrets) kind() byte   { return kindSecrets }
func (NewPolicy) kind() byte { return kindNewPolicy }
func (Beat) kind() byte      { return kindBeat }
func (NextPin) kind() byte   { return kindNextPin }
func (Cloned) kind() byte    { return kindCloned }
