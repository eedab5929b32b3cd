#!/bin/sh
# Makes up the secrets of deploy/compose.yaml in deploy/secrets: a key with its
# passphrase, and the passwords of the roles on the NATS server and of Grafana. What
# is there already stays as it is.
#
#   deploy/make-secrets.sh [sign-submit]
#
# The argument is the program that makes the key; else bin/sign-submit, as make build
# leaves it.
set -eu
umask 077
cd "$(dirname "$0")"
sign_submit="${1:-../bin/sign-submit}"
mkdir -p secrets
# Only its owner gets into the directory; the files in it are for the users of the
# containers, who have other numbers.
chmod 700 secrets

# random prints a password of letters and digits, with a letter first, which is what
# the configuration of NATS takes without quotes.
random() {
	printf 'p%s' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
}

for name in passphrase nats-submitter nats-webhook nats-worker nats-operator grafana; do
	if [ ! -e "secrets/$name" ]; then
		random >"secrets/$name"
		echo "made deploy/secrets/$name"
	fi
done
if [ ! -e secrets/cosign.key ]; then
	"$sign_submit" generate-key --prefix secrets/cosign --passphrase-file secrets/passphrase >/dev/null
	echo "made deploy/secrets/cosign.key and cosign.pub"
fi
chmod 444 secrets/*
