// Command policyverify asks the policy engine of containers/image whether an
// image may run when it must be signed by a key. It exits 0 when it may, 1
// when it may not, 2 when the engine could not tell.
package main
