/**
 * A program: an engine at each of so many loopback addresses, all in one process, at one port. Answers name the address they come from, and the
 * model that was asked for, in headers: the picker gives the client's own back in the body. Arguments: port, count, index of the first address. Prints "listening"; ends with its standard input.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createListener } from "node:net";
import { podAddress } from "./stored-pods.ts";

const [port = 0, count = 0, first = 0] = process.argv.slice(2).map(Number);

const page = [
  "vllm:num_requests_waiting 0",
  "vllm:num_requests_running 0",
  "vllm:kv_cache_usage_perc 0",
  'vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1',
  "",
].join("\n");

const engine = createServer((request, response) => {
  if (request.url === "/metrics") response.setHeader("content-type", "text/plain").end(page);
  else void answer(request, response);
});
engine.keepAliveTimeout = 60_000;

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const { model } = JSON.parse(Buffer.concat(chunks).toString("utf8") || "{}") as { readonly model?: string };
  response
    .setHeader("content-type", "application/json")
    .setHeader("x-signalbox-worker", request.socket.localAddress ?? "")
    .setHeader("x-signalbox-target-model", model ?? "")
    .end(JSON.stringify({ model, choices: [], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }));
}

let listening = 0;
for (let index = 0; index < count; index++) {
  const listener = createListener((socket) => engine.emit("connection", socket));
  listener.listen(port, podAddress(first + index), () => {
    listening++;
    if (listening === count) process.stdout.write("listening\n");
  });
}
process.stdin.on("close", () => process.exit(0)).resume();
