// Package e2e tests the two programs from outside: as built, against a real
// registry and a real NATS server, and believes nothing that cosign and the
// policy engine of containers/image do not confirm.
package e2e
