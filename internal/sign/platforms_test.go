package sign

import (
	"testing"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

func TestPlatformFilters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		filters []string
		have    oci.Platform
		want    bool
	}{
		{nil, oci.Platform{OS: "plan9", Architecture: "mips"}, true},
		{[]string{"linux/amd64"}, oci.Platform{OS: "linux", Architecture: "amd64"}, true},
		{[]string{"linux/amd64"}, oci.Platform{OS: "linux", Architecture: "arm64"}, false},
		{[]string{"linux/amd64", "linux/arm64"}, oci.Platform{OS: "linux", Architecture: "arm64"}, true},
		{[]string{"linux/amd64"}, oci.Platform{OS: "windows", Architecture: "amd64"}, false},
		{[]string{"*/amd64"}, oci.Platform{OS: "windows", Architecture: "amd64"}, true},
		{[]string{"linux/*"}, oci.Platform{OS: "linux", Architecture: "s390x"}, true},
		{[]string{"linux/arm"}, oci.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, true},
		{[]string{"linux/arm/v7"}, oci.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, false},
		{[]string{"linux/arm/v7"}, oci.Platform{OS: "linux", Architecture: "arm"}, true},
		{[]string{"linux/arm64/v8"}, oci.Platform{OS: "linux", Architecture: "arm64"}, true},
		{[]string{"linux/amd64/v3"}, oci.Platform{OS: "linux", Architecture: "amd64"}, false},
		{[]string{"Linux/AMD64"}, oci.Platform{OS: "linux", Architecture: "amd64"}, true},
	} {
		filters, err := parsePlatforms(test.filters)
		require.NoError(t, err)
		require.Equal(t, test.want, filters.match(platformOf(&test.have)), "%v %+v", test.filters, test.have)
	}
}

func TestAnUnreadableFilterIsRefused(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"", "linux", "linux/", "/amd64", "linux/arm/v7/x"} {
		_, err := parsePlatforms([]string{filter})
		var wrong *PlatformError
		require.ErrorAs(t, err, &wrong, filter)
		require.Equal(t, filter, wrong.Platform)
	}
}
