package config

import (
	"slices"

	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/internal/queue"
)

// NATS are the settings of how the server of a fleet is talked to, beside its
// URL: as which user, over what TLS, and what the fleet's names begin with.
type NATS struct {
	Creds         string `mapstructure:"nats-creds"`
	NKey          string `mapstructure:"nats-nkey"`
	User          string `mapstructure:"nats-user"`
	PasswordFile  string `mapstructure:"nats-password-file"`
	CA            string `mapstructure:"nats-ca"`
	Cert          string `mapstructure:"nats-cert"`
	CertKey       string `mapstructure:"nats-key"`
	StreamPrefix  string `mapstructure:"stream-prefix"`
	SubjectPrefix string `mapstructure:"subject-prefix"`
}

// natsFlags defines the flags of NATS.
func natsFlags(flags *pflag.FlagSet) {
	flags.String("nats-creds", "", "credentials `file` of a NATS user, as nsc makes it: his JWT and seed")
	flags.String("nats-nkey", "", "`file` with the nkey seed of a NATS user")
	flags.String("nats-user", "", "`name` of a NATS user; his password is in --nats-password-file")
	flags.String("nats-password-file", "", "`file` with the password of --nats-user, read again for each connection")
	flags.String("nats-ca", "", "PEM `file` with the authorities of the NATS server's certificate; default: those of the system")
	flags.String("nats-cert", "", "PEM `file` with the client's certificate, where the NATS server wants one")
	flags.String("nats-key", "", "PEM `file` with the private key of --nats-cert")
	flags.String("stream-prefix", queue.DefaultStreamPrefix, "`text` that the names of the fleet's streams and buckets begin with")
	flags.String("subject-prefix", queue.DefaultSubjectPrefix, "`text` that the fleet's subjects begin with")
}

// IsNATS reports whether a setting is one of NATS, or nats-url.
func IsNATS(name string) bool {
	flags := pflag.NewFlagSet("nats", pflag.ContinueOnError)
	natsFlags(flags)
	return name == "nats-url" || flags.Lookup(name) != nil
}

// Connect fills those options of the queue that say how its server is talked to.
func (n NATS) Connect(url string, o queue.Options) queue.Options {
	o.URL = url
	o.Creds, o.NKey, o.User, o.PasswordFile = n.Creds, n.NKey, n.User, n.PasswordFile
	o.CA, o.Cert, o.Key = n.CA, n.Cert, n.CertKey
	o.StreamPrefix, o.SubjectPrefix = n.StreamPrefix, n.SubjectPrefix
	return o
}

// InputFiles are the files that are read: none of them may be written to.
func (n NATS) InputFiles() []string {
	files := []string{n.Creds, n.NKey, n.PasswordFile, n.CA, n.Cert, n.CertKey}
	return slices.DeleteFunc(files, func(file string) bool { return file == "" })
}
