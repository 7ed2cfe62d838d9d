// The official JavaScript client against a live server: chat, streams, tools, structured output, responses, errors.
// Usage: node client.mjs URL MODEL. Prints what each call said as one JSON object; the Python test judges it.
import OpenAI from "openai";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is 17 + 25?" }];
const greedy = { model, messages, temperature: 0 };
const parameters = { type: "object", properties: { sum: { type: "integer", minimum: 0, maximum: 99 } }, required: ["sum"] };
const tools = [{ type: "function", function: { name: "add", parameters } }];
const said = {};

const whole = await client.chat.completions.create({ ...greedy, logprobs: true, top_logprobs: 2 });
said.chat = whole.choices[0].message.content;
said.logprobs = whole.choices[0].logprobs.content.map((one) => one.token).join("");

const stream = client.chat.completions.stream({ ...greedy, stream_options: { include_usage: true } });
said.streamed = await stream.finalContent();
said.usage = (await stream.totalUsage()).completion_tokens === whole.usage.completion_tokens;

const named = { type: "function", function: { name: "add" } };
const called = await client.chat.completions.create({ ...greedy, tools, tool_choice: named });
said.call = called.choices[0].message.tool_calls[0].function.name;
said.sum = typeof JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).sum;
const calling = client.chat.completions.stream({ ...greedy, tools, tool_choice: "required", parallel_tool_calls: false });
const calls = (await calling.finalMessage()).tool_calls;
said.required = calls.map((call) => [call.function.name, typeof JSON.parse(call.function.arguments).sum]);

const format = { type: "json_schema", json_schema: { name: "sum", schema: parameters, strict: true } };
const formed = await client.chat.completions.create({ ...greedy, response_format: format });
said.formed = typeof JSON.parse(formed.choices[0].message.content).sum;

const completion = await client.completions.create({ model, prompt: "What is", max_tokens: 3, echo: true, n: 2 });
said.completions = completion.choices.map((choice) => choice.text.startsWith("What is"));

const first = await client.responses.create({ model, input: messages[0].content, temperature: 0 });
said.responses = first.output_text;
const events = client.responses.stream({ model, input: "What is 3 + 4?", temperature: 0, previous_response_id: first.id });
for await (const event of events) said.last = event.type;
said.next = (await events.finalResponse()).output_text;

said.models = [];
for await (const one of client.models.list()) said.models.push(one.id);

for (const [name, body] of Object.entries({ bad: { ...greedy, n: 0 }, unknown: { ...greedy, model: "none" } })) {
  try {
    await client.chat.completions.create(body);
  } catch (error) {
    said[name] = [error.constructor.name, error.status, error.param ?? null];
  }
}

const controller = new AbortController();
const cut = await client.chat.completions.create(
  { ...greedy, stream: true, max_tokens: 200, ignore_eos: true },
  { signal: controller.signal },
);
for await (const _ of cut) controller.abort();
said.aborted = controller.signal.aborted;

console.log(JSON.stringify(said));
