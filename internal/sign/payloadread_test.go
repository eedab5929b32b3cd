package sign

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What containers/image accepts is accepted, and what it refuses refused.
func TestPayloadsAreReadAsContainersImageDoes(t *testing.T) {
	t.Parallel()
	good, err := newPayload("example.com/app:1", digestA, map[string]string{"team": "web"})
	require.NoError(t, err)
	claim, err := readPayload(good)
	require.NoError(t, err)
	require.Equal(t, "example.com/app:1", claim.identity)
	require.Equal(t, digestA, claim.manifest)
	require.JSONEq(t, `"web"`, string(claim.annotations["team"]))

	text := `{"critical":{"identity":{"docker-reference":"example.com/app:1"},"image":{"docker-manifest-digest":"` + digestA.String() + `"},"type":"cosign container image signature"},"optional":null}`
	for _, change := range [][2]string{
		{"null", "{}"}, {"null", ` {"a" : [1, {"b":null}]} `}, {"null", `{"creator":"me","timestamp":1700000000}`},
		{"", "\n"}, {"", " "}, {"example.com/app:1", ""},
	} {
		_, err := readPayload([]byte(replaced(text, change)))
		require.NoError(t, err, change)
	}
	for _, change := range []struct {
		of   [2]string
		says string
	}{
		{[2]string{`,"optional":null`, ""}, "optional is missing"},
		{[2]string{"null", "1"}, "optional is no JSON object"},
		{[2]string{"null", `{"creator":1}`}, "creator is no text"},
		{[2]string{"null", `{"timestamp":"1"}`}, "timestamp is no whole number"},
		{[2]string{"null", `{"timestamp":1.5}`}, "timestamp is no whole number"},
		{[2]string{"null", `{"a":1,"a":2}`}, "optional.a is there twice"},
		{[2]string{"null", `null,"more":1`}, "more: it is not known"},
		{[2]string{"null", `null,"critical":{}`}, "critical is there twice"},
		{[2]string{`"type"`, `"Type"`}, "critical.Type: it is not known"},
		{[2]string{"cosign container", "atomic container"}, `critical.type is "atomic container image signature"`},
		{[2]string{digestA.String(), "sha256:a"}, "invalid"},
		{[2]string{`"` + digestA.String() + `"`, "1"}, "docker-manifest-digest is of another type"},
		{[2]string{"", "{}"}, "something follows the payload"},
		{[2]string{"null}", "null"}, "not the JSON it should be"},
	} {
		_, err := readPayload([]byte(replaced(text, change.of)))
		require.ErrorContains(t, err, change.says, change.of)
	}
}

// replaced puts the second in the place of the first; of none, at the end.
func replaced(text string, change [2]string) string {
	if change[0] == "" {
		return text + change[1]
	}
	return strings.Replace(text, change[0], change[1], 1)
}
