package submit

// NewReport begins a report on images that are no batch; its failures are added
// in the order of their list. It must be closed.
func NewReport() *Report { return &Report{} }

// Add puts a failure on the failed list.
func (r *Report) Add(f Failure) error { return r.listFailure(f) }
