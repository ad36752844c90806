// Scenarios of the Vercel AI SDK: its default model of OpenAI (Responses), its chat model, and its openai-compatible provider.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { serve } from './harness.mjs';

const getWeather = tool({
  description: 'Return the weather at a place.',
  inputSchema: z.object({ location: z.string() }),
  execute: async ({ location }) => `sunny in ${location}`,
});

function makeModel({ base_url, headers, kind }) {
  const options = { baseURL: base_url, apiKey: 'key', headers };
  if (kind === 'compatible') return createOpenAICompatible({ name: 'gateway', ...options })('gpt-6-luna');
  const provider = createOpenAI(options);
  return kind === 'chat' ? provider.chat('gpt-6-luna') : provider('gpt-6-luna');
}

async function generate(options, stream) {
  if (!stream) {
    const result = await generateText({ maxRetries: 0, ...options });
    return { text: result.text, messages: result.response.messages };
  }
  const failures = [];
  const result = streamText({ maxRetries: 0, onError: ({ error }) => failures.push(error), ...options });
  let text = '';
  for await (const each of result.textStream) text += each;
  if (failures.length) throw failures[0];
  return { text, messages: (await result.response).messages };
}

async function ask(given, options) {
  const model = makeModel(given);
  const messages = [];
  const replies = [];
  for (const text of given.texts) {
    messages.push({ role: 'user', content: text });
    const reply = await generate({ model, messages, ...options }, given.stream);
    messages.push(...reply.messages);
    replies.push(reply.text);
  }
  return replies;
}

await serve({
  ask: (given) => ask(given, { system: 'Answer briefly.' }),
  ask_with_tool: (given) => ask(given, { tools: { get_weather: getWeather }, stopWhen: stepCountIs(3) }),
});
