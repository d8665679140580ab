// Three agents, asked from Node. docs/contract.md has the messages.
//   npm install @nats-io/transport-node@3
//   NATS_URL=nats://TOKEN@127.0.0.1:4222 node examples/node.mjs ["question"]
import { connect, createInbox, headers } from "@nats-io/transport-node";

const DEADLINE_SECONDS = 60;
const question = process.argv[2] ?? "Which is safer, a rename or a new column, and why?";

// This library reads no token from a URL.
const url = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
const [user, pass] = [decodeURIComponent(url.username), decodeURIComponent(url.password)];
const login = pass ? { user, pass } : user ? { token: user } : {};
const nc = await connect({ servers: url.host, ...login });

try {
  // An inbox of our own: `Parley-Reply-To` says that the ending should go there.
  const inbox = createInbox();
  const endings = nc.subscribe(inbox, { max: 1, timeout: (DEADLINE_SECONDS + 10) * 1000 });
  const header = headers();
  header.set("Parley-Reply-To", inbox);
  const request = { task_description: question, num_agents: 3, timeout_seconds: DEADLINE_SECONDS };

  // JetStream answers a request with its acknowledgement.
  const options = { headers: header, timeout: 5000 };
  const stored = (await nc.request("deliberation.requested", JSON.stringify(request), options)).json();
  if (stored.error) throw new Error(`refused: ${stored.error.description}`);
  console.log(`asked d-${stored.seq}`); // the service gives a request without a `task_id` this name

  // A TimeoutError here says that the ending was lost on its way: ask `deliberation.get` for it.
  for await (const message of endings) {
    const ending = message.json();
    console.log(ending.status, ending.error ?? "");
    // Answers that are too large for a message are in an object store (`results_ref`): @nats-io/obj reads it.
    for (const result of ending.results) console.log(`${result.agent_id}: ${result.proposal.content}`);
    process.exitCode = ending.status === "completed" ? 0 : 1;
  }
} finally {
  await nc.close();
}
