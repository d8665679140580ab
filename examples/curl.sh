#!/usr/bin/env bash
# Three agents, asked over HTTP with curl and jq: examples/curl.sh ["question"].
set -euo pipefail
gateway=${GATEWAY_URL:-http://127.0.0.1:8470}
question=${1:-Which is safer, a rename or a new column, and why?}
# curl gives up a stream after so long, as a proxy does. The events go on all the same.
stream_seconds=${STREAM_SECONDS:-60}

# 1. Ask. The gateway stores the question and answers at once, with the deliberation's id. (`?wait=30` works here, too:
#    then one request asks and brings the ending.)
asked=$(jq -n --arg question "$question" '{task_description: $question, num_agents: 3, timeout_seconds: 60}' |
    curl -sS --fail-with-body "$gateway/v1/deliberations" -H 'content-type: application/json' -d @-)
task_id=$(jq -r .task_id <<<"$asked")
echo "asked $task_id"

# 2. Read what happens. `Last-Event-ID` names the last event that was read: none comes twice, and none is missed.
#    An empty line ends an event: one that was cut before it counts as not read.
last='' id='' event='' data=''
for _ in {1..70}; do
    id=$last data=''
    while IFS=': ' read -r field value; do
        case $field in
            id) id=$value ;;
            event) event=$value ;;
            data) data=$value ;;
            '')
                [[ -n $data ]] && jq -r '"event \(.type) \(.agent_id // "")"' <<<"$data"
                last=$id data='' ;;
        esac
    done < <(curl -sS -N --max-time "$stream_seconds" -H "Last-Event-ID: $last" \
        "$gateway/v1/deliberations/$task_id/events" 2>/dev/null)
    [[ $event == ending ]] && break
    sleep 0.2
done

# 3. Read the ending. `?wait=30` waits up to 30 s; the status code 202 means: not ended yet, ask again.
code=202
while [[ $code == 202 ]]; do
    told=$(curl -sS -w '\n%{http_code}' "$gateway/v1/deliberations/$task_id?wait=30")
    code=${told##*$'\n'} status=${told%$'\n'*}
done
[[ $code == 200 ]] || { echo "$status" >&2; exit 1; }
jq -r '.ending | .status, (.error // empty), (.results[] | "\(.agent_id): \(.proposal.content)")' <<<"$status"
jq -e '.ending.status == "completed"' <<<"$status" >/dev/null
