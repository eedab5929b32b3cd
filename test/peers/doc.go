// Package peers runs the programs that Signfleet meets in the field, for tests
// and the demo: the distribution registry and nats-server as real processes,
// cosign and the policy engine of containers/image as those who verify, a
// proxy in front of a registry that counts and spoils requests, and images of
// every shape to sign.
//
// It starts and stops them and says what they answered. It knows nothing of
// Signfleet's own code, so that a test with it sees only what a user sees.
package peers
