#!/usr/bin/env bash
# Three agents, asked over NATS's text protocol with bash alone (jq makes and reads the JSON):
# NATS_URL=nats://TOKEN@127.0.0.1:4222 examples/bare_socket.sh ["question"]. docs/contract.md has the messages.
set -euo pipefail
export LC_ALL=C # NATS counts bytes, and so do ${#text} and `read -N` then
question=${1:-Which is safer, a rename or a new column, and why?}
url=${NATS_URL:-nats://127.0.0.1:4222}
url=${url#nats://}
login=$([[ $url == *@* ]] && echo "${url%@*}" || true)
address=${url##*@}
exec 3<>"/dev/tcp/${address%:*}/${address##*:}"

# Send a line, and a payload after it. NATS ends both with CR LF.
send() { printf '%s\r\n' "$@" >&3; }

# Wait for the next message: its subject goes to $subject, its payload to $payload. Fails after 70 s of silence.
receive() {
    local line words total headers=0
    while IFS= read -r -t 70 -u 3 line; do
        read -r -a words <<<"${line%$'\r'}"
        case ${words[0]} in
            PING) send PONG ;; # NATS asks whether we are still there
            PONG) return ;;
            -ERR) echo "NATS says: $line" >&2; return 1 ;;
            MSG | HMSG)
                subject=${words[1]} total=${words[-1]}
                [[ ${words[0]} == HMSG ]] && headers=${words[-2]} # bytes of headers before the payload
                IFS= read -r -N $((total + 2)) -u 3 payload
                payload=${payload:headers:total-headers}
                return ;;
        esac
    done
    return 1
}

# 1. Connect, and subscribe to an inbox of our own: nobody else reads what comes there.
inbox="_INBOX.$(tr -d - </proc/sys/kernel/random/uuid)"
case $login in
    *:*) access=$(jq -nc --arg user "${login%%:*}" --arg pass "${login#*:}" '{user: $user, pass: $pass}') ;;
    *) access=$(jq -nc --arg token "$login" 'if $token == "" then {} else {auth_token: $token} end') ;;
esac
send "CONNECT $(jq -c '. + {verbose: false, pedantic: false, headers: true}' <<<"$access")" PING
receive || exit 1 # NATS's PONG says that it has let us in
send "SUB $inbox.* 1"

# 2. Ask. `Parley-Reply-To` says where the ending should go; the reply subject is for JetStream's acknowledgement.
request=$(jq -nc --arg question "$question" '{task_description: $question, num_agents: 3, timeout_seconds: 60}')
header=$'NATS/1.0\r\n'"Parley-Reply-To: $inbox.ending"$'\r\n\r\n'
send "HPUB deliberation.requested $inbox.stored ${#header} $((${#header} + ${#request}))" "$header$request"

# 3. Read both. The ending may come before the acknowledgement.
stored='' ending=''
while [[ -z $stored || -z $ending ]]; do
    receive || { echo "no ending came: ask deliberation.get (docs/contract.md)" >&2; exit 1; }
    case $subject in
        *.stored)
            stored=$payload # the service gives a request without a `task_id` the name after its place
            jq -r 'if .error then "refused: \(.error.description)" | halt_error else "asked d-\(.seq)" end' <<<"$stored" ;;
        *.ending) ending=$payload ;;
    esac
done
jq -r '.status, (.error // empty), (.results[] | "\(.agent_id): \(.proposal.content)")' <<<"$ending"
jq -e '.status == "completed"' >/dev/null <<<"$ending"
