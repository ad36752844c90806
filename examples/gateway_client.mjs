// A client of the gateway with OpenAI's package for JavaScript: the gateway keeps the conversation, and a lost connection
// loses nothing.
//
// Start a gateway with a model that needs no key, and talk to it from a second terminal:
//
//     convokit serve --demo
//
//     npm install openai
//     node examples/gateway_client.mjs kyoto "My name is Hanako."
//     node examples/gateway_client.mjs kyoto "What did I say?"
//
// OPENAI_BASE_URL names another gateway, OPENAI_API_KEY is a key for it, and CONVOKIT_MODEL names the model.
import OpenAI, { APIError } from 'openai';

const ends = ['response.completed', 'response.incomplete', 'response.failed'];

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8000/v1',
  apiKey: process.env.OPENAI_API_KEY ?? 'none',
});

// Yields the reply of the conversation `name` while it arrives. Only the question is sent, not the history.
async function* ask(name, question, model = process.env.CONVOKIT_MODEL ?? 'demo') {
  const headers = { 'X-Conversation-Id': name, 'X-Conversation-Mode': 'append' };
  let stream = await client.responses.create({ model, input: question, stream: true }, { headers });
  let id;
  let last = 0;
  for (;;) {
    try {
      for await (const event of stream) {
        last = event.sequence_number;
        if (event.type === 'response.created') id = event.response.id;
        else if (event.type === 'response.output_text.delta') yield event.delta;
        else if (ends.includes(event.type)) return;
      }
    } catch (error) {
      if (!id || (error instanceof APIError && error.status)) throw error;
    }
    // The gateway goes on without its reader. It sends the events that this program has not seen yet.
    stream = await client.responses.retrieve(id, { stream: true, starting_after: last });
  }
}

const [, , name, question] = process.argv;
for await (const text of ask(name, question)) process.stdout.write(text);
process.stdout.write('\n');
