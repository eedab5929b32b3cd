package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// FileError says that a file of the connection's options cannot be used. What is
// in it is not told.
type FileError struct {
	Option string // as "nats-creds"
	File   string
	Err    error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Option, e.File, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

// checkIdentity refuses more than one user, and halves of one.
func (o Options) checkIdentity() error {
	given := make([]string, 0, 4)
	for _, way := range []struct {
		name  string
		given bool
	}{
		{"nats-creds", o.Creds != ""}, {"nats-nkey", o.NKey != ""}, {"nats-user", o.User != ""},
		{"the user in nats-url", userInURL(o.URL)},
	} {
		if way.given {
			given = append(given, way.name)
		}
	}
	switch {
	case len(given) > 1:
		return fmt.Errorf("%s and %s do not go together: each names a user, give one of them", given[0], given[1])
	case o.User != "" && o.PasswordFile == "":
		return errors.New("nats-user: his password is missing: give the file that holds it with nats-password-file")
	case o.User == "" && o.PasswordFile != "":
		return errors.New("nats-password-file: whose password it holds is missing: give nats-user")
	case o.Cert != "" && o.Key == "":
		return errors.New("nats-cert: the private key of the certificate is missing: give its file with nats-key")
	case o.Cert == "" && o.Key != "":
		return errors.New("nats-key: the certificate of the private key is missing: give its file with nats-cert")
	}
	return nil
}

// userInURL reports whether one of the URLs names a user, or has a token.
func userInURL(urls string) bool {
	for part := range strings.SplitSeq(urls, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part // as the client completes it
		}
		if u, err := url.Parse(part); err == nil && u.User != nil {
			return true
		}
	}
	return false
}

// identity are the client's options by which the server knows it. The library's
// own would send any file as a JWT, name no file in their errors, and read a
// password once and for all.
func (o Options) identity(trouble *troubles) ([]nats.Option, error) {
	switch {
	case o.Creds != "":
		jwt := func() (string, error) { return readJWT(o.Creds) }
		sign := func(nonce []byte) ([]byte, error) { return signWith("nats-creds", o.Creds, "", nonce) }
		return []nats.Option{nats.UserJWT(jwt, sign)}, nil
	case o.NKey != "":
		user, err := nkeyUser("nats-nkey", o.NKey)
		if err != nil {
			return nil, err
		}
		sign := func(nonce []byte) ([]byte, error) { return signWith("nats-nkey", o.NKey, user, nonce) }
		return []nats.Option{nats.Nkey(user, sign)}, nil
	case o.User != "":
		if _, err := readPassword(o.PasswordFile); err != nil {
			return nil, err
		}
		return []nats.Option{nats.UserInfoHandler(func() (user, password string) {
			password, err := readPassword(o.PasswordFile)
			if err != nil {
				trouble.note(err) // the server refuses this try, and the next may be better
			}
			return o.User, password
		})}, nil
	}
	return nil, nil
}

// readFile reads a file that an option names.
func readFile(option, file string) ([]byte, error) {
	data, err := os.ReadFile(file) //nolint:gosec // G304: the user's own file
	if bad := new(fs.PathError); errors.As(err, &bad) {
		err = bad.Err // it names the file once more
	}
	if err != nil {
		return nil, &FileError{Option: option, File: file, Err: err}
	}
	return data, nil
}

var jwtPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// readJWT reads the JWT of a credentials file. Nothing else may pass for one: it
// is sent to the server.
func readJWT(file string) (string, error) {
	data, err := readFile("nats-creds", file)
	if err != nil {
		return "", err
	}
	defer clear(data)
	jwt, err := nkeys.ParseDecoratedJWT(data)
	if err != nil || !jwtPattern.MatchString(jwt) {
		return "", &FileError{Option: "nats-creds", File: file, Err: errors.New("it holds no credentials, the JWT of a user and his seed: make them with nsc generate creds")}
	}
	return jwt, nil
}

// readPassword reads a password without the line end that editors put there.
func readPassword(file string) (string, error) {
	data, err := readFile("nats-password-file", file)
	if err != nil {
		return "", err
	}
	defer clear(data)
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", &FileError{Option: "nats-password-file", File: file, Err: errors.New("it holds no password")}
	}
	return password, nil
}

// userKey reads the seed of a user. The key must be wiped.
func userKey(option, file string) (nkeys.KeyPair, error) {
	data, err := readFile(option, file)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	key, err := nkeys.ParseDecoratedNKey(data)
	if err != nil {
		return nil, &FileError{Option: option, File: file, Err: errors.New("it holds no seed of a user, which begins with SU: make one with nk -gen user")}
	}
	public, err := key.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		key.Wipe()
		return nil, &FileError{Option: option, File: file, Err: errors.New("it holds the seed of an account or an operator, where that of a user is needed, which begins with SU")}
	}
	return key, nil
}

// nkeyUser is the public key of a user, by which the server knows him.
func nkeyUser(option, file string) (string, error) {
	key, err := userKey(option, file)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	return key.PublicKey()
}

// signWith answers the question of the server for a signature. The seed must be
// that of the user, if one is named: the client cannot be another one halfway.
func signWith(option, file, user string, nonce []byte) ([]byte, error) {
	key, err := userKey(option, file)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if public, err := key.PublicKey(); user != "" && (err != nil || public != user) {
		return nil, &FileError{Option: option, File: file, Err: fmt.Errorf("it holds the seed of another user than %s now: start anew to be that one", user)}
	}
	return key.Sign(nonce)
}
