#!/bin/bash
# Make a Couchbase node the registry's: the data service, one bucket, one user who may use that bucket only.
# Run again, it changes nothing but the user's password. couchbase-cli reads the administrator from CB_REST_USERNAME
# and CB_REST_PASSWORD.
set -euo pipefail

node=couchbase:8091

if ! couchbase-cli server-list --cluster "$node" > /dev/null 2>&1; then
    couchbase-cli cluster-init --cluster "$node" --cluster-name selfgen --services data --cluster-ramsize 512 \
        --cluster-username "$CB_REST_USERNAME" --cluster-password "$CB_REST_PASSWORD"
fi

if ! couchbase-cli bucket-list --cluster "$node" | grep -qx "$SELFGEN_COUCHBASE_BUCKET"; then
    couchbase-cli bucket-create --cluster "$node" --bucket "$SELFGEN_COUCHBASE_BUCKET" --bucket-type couchbase \
        --bucket-ramsize 256 --bucket-replica 0 --wait
fi

couchbase-cli user-manage --cluster "$node" --set --auth-domain local --rbac-username "$SELFGEN_COUCHBASE_USER" \
    --rbac-password "$SELFGEN_COUCHBASE_PASSWORD" --roles "bucket_full_access[$SELFGEN_COUCHBASE_BUCKET]"

# clients on this machine are told the published ports, those in containers the server's own
couchbase-cli setting-alternate-address --cluster "$node" --set --hostname 127.0.0.1 \
    --ports "kv=$SELFGEN_PORT_COUCHBASE,mgmt=$SELFGEN_PORT_COUCHBASE_REST"
