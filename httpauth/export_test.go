package httpauth

// NewWith is New with a fake in the place of the store.
func NewWith(store loginer, opts *Options) *Auth { return newAuth(store, opts) }
