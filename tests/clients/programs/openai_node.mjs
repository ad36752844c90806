// Scenarios of OpenAI's package for Node.
import OpenAI from 'openai';
import { serve } from './harness.mjs';

const model = 'gpt-6-luna';
const tools = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'Return the weather at a place.',
      parameters: { type: 'object', properties: { location: { type: 'string' } }, required: ['location'] },
    },
  },
];

const connect = ({ base_url, headers }) =>
  new OpenAI({ baseURL: base_url, apiKey: 'key', defaultHeaders: headers, maxRetries: 0 });

async function complete(client, body, stream) {
  if (!stream) return (await client.chat.completions.create({ model, ...body })).choices[0].message;
  const runner = client.chat.completions.stream({ model, ...body });
  return await runner.finalMessage();
}

async function respond(client, body, stream) {
  if (!stream) return await client.responses.create({ model, ...body });
  return await client.responses.stream({ model, ...body }).finalResponse();
}

await serve({
  async ask(given) {
    const client = connect(given);
    const messages = [{ role: 'system', content: 'Answer briefly.' }];
    const replies = [];
    for (const text of given.texts) {
      messages.push({ role: 'user', content: text });
      const reply = await complete(client, { messages }, given.stream);
      messages.push(reply);
      replies.push(reply.content);
    }
    return replies;
  },

  async ask_with_tool(given) {
    const client = connect(given);
    const messages = [];
    const replies = [];
    for (const text of given.texts) {
      messages.push({ role: 'user', content: text });
      let reply = await complete(client, { messages, tools }, given.stream);
      messages.push(reply);
      while (reply.tool_calls?.length) {
        for (const call of reply.tool_calls) {
          const { location } = JSON.parse(call.function.arguments);
          messages.push({ role: 'tool', tool_call_id: call.id, content: `sunny in ${location}` });
        }
        reply = await complete(client, { messages, tools }, given.stream);
        messages.push(reply);
      }
      replies.push(reply.content);
    }
    return replies;
  },

  async ask_by_previous_response(given) {
    const client = connect(given);
    const replies = [];
    let previous;
    for (const input of given.texts) {
      const response = await respond(client, { input, previous_response_id: previous }, given.stream);
      previous = response.id;
      replies.push(response.output_text);
    }
    return replies;
  },

  async ask_in_conversation(given) {
    const client = connect(given);
    const conversation = await client.conversations.create({ metadata: { topic: '旅' } });
    const replies = [];
    for (const input of given.texts) {
      const response = await respond(client, { input, conversation: conversation.id }, given.stream);
      replies.push(response.output_text);
    }
    const types = [];
    for await (const item of client.conversations.items.list(conversation.id, { order: 'asc' })) types.push(item.type);
    const deleted = await client.conversations.delete(conversation.id);
    return { replies, types, metadata: conversation.metadata, deleted: deleted.deleted };
  },

  async read_models(given) {
    const ids = [];
    for await (const each of connect(given).models.list()) ids.push(each.id);
    return ids;
  },

  async fail(given) {
    try {
      await connect(given).chat.completions.create({ model, messages: [{ role: 'user', content: given.text }] });
    } catch (error) {
      return { name: error.constructor.name, status: error.status, code: error.code, request: error.requestID ?? null };
    }
  },
});
