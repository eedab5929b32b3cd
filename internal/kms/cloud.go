//go:build kms_cloud

package kms

import (
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"   // awskms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure" // azurekms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"   // gcpkms://
)
