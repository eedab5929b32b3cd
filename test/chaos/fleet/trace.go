package fleet

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// traced are the subjects of all that is stored or acknowledged.
var traced = []string{"sign.>", "$KV.>", "$JS.ACK.>"}

// trace writes down, in trace.log, all messages of the fleet that pass its queue:
// with the logs of the workers they tell what became of a request.
func (q *queueView) trace(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	q.traceFile = file
	for _, subject := range traced {
		if _, err := q.nc.Subscribe(subject, func(msg *nats.Msg) {
			_, _ = fmt.Fprintf(file, "%s %s %v %.800q\n", time.Now().UTC().Format("15:04:05.000"), msg.Subject, msg.Header, msg.Data)
		}); err != nil {
			return err
		}
	}
	return q.nc.Flush()
}
