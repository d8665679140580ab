// Three agents, asked from Go. docs/contract.md has the messages.
//
//	apt install golang-go golang-github-nats-io-go-nats-dev
//	export NATS_URL=nats://TOKEN@127.0.0.1:4222
//	GO111MODULE=off GOPATH=/usr/share/gocode go run examples/go/main.go "question"
//
// (With modules: go mod init ask && go get github.com/nats-io/nats.go && go run .)
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

const deadline = 60 * time.Second

type ending struct {
	Status  string
	Error   string
	Results []struct { // empty with a `results_ref`: answers that are too large for a message are in an object store
		AgentID  string `json:"agent_id"`
		Proposal struct{ Content string }
	}
}

func main() {
	question := "Which is safer, a rename or a new column, and why?"
	if len(os.Args) > 1 {
		question = os.Args[1]
	}
	url := os.Getenv("NATS_URL")
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url)
	check(err)
	defer nc.Close()

	// An inbox of our own: `Parley-Reply-To` says that the ending should go there.
	inbox := nats.NewInbox()
	endings, err := nc.SubscribeSync(inbox)
	check(err)
	request := nats.NewMsg("deliberation.requested")
	request.Header.Set("Parley-Reply-To", inbox)
	request.Data, err = json.Marshal(map[string]any{
		"task_description": question, "num_agents": 3, "timeout_seconds": deadline.Seconds(),
	})
	check(err)
	js, err := nc.JetStream()
	check(err)
	stored, err := js.PublishMsg(request)
	check(err)
	fmt.Printf("asked d-%d\n", stored.Sequence) // the service gives a request without a `task_id` this name

	// nats.ErrTimeout here says that the ending was lost on its way: ask `deliberation.get` for it.
	message, err := endings.NextMsg(deadline + 10*time.Second)
	check(err)
	var found ending
	check(json.Unmarshal(message.Data, &found))
	fmt.Println(found.Status, found.Error)
	for _, result := range found.Results {
		fmt.Printf("%s: %s\n", result.AgentID, result.Proposal.Content)
	}
	if found.Status != "completed" {
		os.Exit(1)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
