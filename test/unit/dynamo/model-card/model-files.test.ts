/** Files of a model card: had from where the card says, whole and with the digest it gives, or an outcome that says why not. */
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { limitCache } from "../../../../src/dynamo/model-card/cache-limit.ts";
import type { CheckedFile, ModelCard } from "../../../../src/dynamo/model-card/model-card.ts";
import { loadModelFiles } from "../../../../src/dynamo/model-card/model-files.ts";
import { createModelFiles, type ModelFiles } from "../../../../src/dynamo/model-card/model-files-keeper.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

const content = "x".repeat(200_000);
const log = silentLogger;
let folder: string;
let server: Server;
let url: string;
let requests = 0;
let respond: (response: ServerResponse) => void;
let paths: string[] = [];

beforeAll(async () => {
  server = createServer((request, response) => {
    requests++;
    paths.push(request.url ?? "");
    respond(response);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  url = `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/v1/metadata/m/tokenizer.json`;
});
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => {
    server.close(resolve);
  });
});
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "signalbox-model-"));
  requests = 0;
  paths = [];
  respond = (response) => response.end(content);
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

function checked(path: string, text = content): CheckedFile {
  return { path, checksum: `blake3:${bytesToHex(blake3(Buffer.from(text)))}`, sizeBytes: text.length };
}

function card(tokenizer: CheckedFile | undefined, more: Partial<ModelCard> = {}): ModelCard {
  const none = { config: undefined, tokenizerConfig: undefined, chatTemplate: undefined, generationConfig: undefined };
  return {
    displayName: "m",
    slug: "m",
    fingerprint: "f",
    modelInput: "Tokens",
    ...none,
    tokenizer,
    ...more,
  } as ModelCard;
}

const load = (
  model: ModelCard,
  options: { modelPath?: string; timeoutMs?: number } = {},
): ReturnType<typeof loadModelFiles> => loadModelFiles(model, { log, cacheDir: join(folder, "cache"), ...options });

describe("model files", () => {
  it("are used where they lie when they are what the card says", async () => {
    const path = join(folder, "tokenizer.json");
    await writeFile(path, content);
    const template = join(folder, "chat_template.jinja");
    await writeFile(template, "{{ x }}");
    const outcome = await load(card(checked(path), { chatTemplate: checked(pathToFileURL(template).href, "{{ x }}") }));
    expect(outcome).toMatchObject({
      kind: "ready",
      files: { tokenizer: path, chatTemplate: template, config: undefined },
    });
  });

  it("are fetched once over HTTP and kept by digest under their own name", async () => {
    const path = join(folder, "cache", checked("").checksum.slice(7), "tokenizer.json");
    expect(await load(card(checked(url)))).toMatchObject({ kind: "ready", files: { tokenizer: path } });
    expect(await load(card(checked(url)))).toMatchObject({ kind: "ready", files: { tokenizer: path } });
    expect(requests).toBe(1);
    await writeFile(path, "spoilt");
    expect(await load(card(checked(url)))).toMatchObject({ kind: "ready" });
    expect(requests).toBe(2);
  });

  it("are found by name in the folder of the model path, or in the model's own folder there", async () => {
    await writeFile(join(folder, "tokenizer.json"), content);
    await mkdir(join(folder, "m"));
    await writeFile(join(folder, "m", "config.json"), "{}");
    const outcome = await load(
      card(checked("hf://org/model@main/tokenizer.json"), { config: checked("/nowhere/config.json", "{}") }),
      { modelPath: folder },
    );
    expect(outcome).toMatchObject({
      files: { tokenizer: join(folder, "tokenizer.json"), config: join(folder, "m", "config.json") },
    });
  });

  const failures: readonly (readonly [
    string,
    () => ModelCard,
    string,
    { readonly answer?: (response: ServerResponse) => void; readonly timeoutMs?: number },
  ])[] = [
    [
      "absent here",
      () => card(checked("/nowhere/tokenizer.json")),
      "tokenizer /nowhere/tokenizer.json: no such file on this host",
      {},
    ],
    ["in a model hub", () => card(checked("hf://org/model/tokenizer.json")), "not downloaded", {}],
    ["of another content", () => card(checked(url, "y".repeat(content.length))), "another content", {}],
    ["absent there", () => card(checked(url)), "status 404", { answer: (response) => response.writeHead(404).end() }],
    ["larger than its card says", () => card({ ...checked(url), sizeBytes: 1000 }), "larger than the 1000 bytes", {}],
    [
      "of unknown length and larger than its card says",
      () => card({ ...checked(url), sizeBytes: 1000 }),
      "larger than the 1000 bytes",
      {
        answer: (response) => {
          response.write("a".repeat(900));
          response.end("b".repeat(900));
        },
      },
    ],
    [
      "cut short",
      () => card(checked(url)),
      "tokenizer http",
      {
        answer: (response) => {
          response.writeHead(200, { "content-length": String(content.length) });
          response.write("x");
          setImmediate(() => response.destroy());
        },
      },
    ],
    [
      "not sent in time",
      () => card(checked(url)),
      "not complete after 100 ms",
      {
        timeoutMs: 100,
        answer: (response) => {
          response.write("x");
        },
      },
    ],
    [
      "at an address where clouds keep credentials",
      () => card(checked("http://169.254.169.254/latest/meta-data/iam/tokenizer.json")),
      "not fetched from",
      {},
    ],
    [
      "at such an address in another notation",
      () => card(checked("http://0xa9fea9fe/tokenizer.json")),
      "not fetched from",
      {},
    ],
    [
      "at such an address within IPv6",
      () => card(checked("http://[::ffff:a9fe:a9fe]/tokenizer.json")),
      "not fetched from",
      {},
    ],
    [
      "behind a redirect to such an address",
      () => card(checked(url)),
      "not fetched from",
      { answer: (response) => response.writeHead(302, { location: "http://169.254.169.254/" }).end() },
    ],
    [
      "behind a redirect to a file",
      () => card(checked(url)),
      "leads to file:",
      { answer: (response) => response.writeHead(302, { location: "file:///etc/passwd" }).end() },
    ],
    [
      "behind redirects without end",
      () => card(checked(url)),
      "leads on more than 5 times",
      { answer: (response) => response.writeHead(302, { location: url }).end() },
    ],
    ["made up by the kernel as they are read", () => card(checked("/proc/self/environ")), "no such file", {}],
    ["no file", () => card(checked("/dev/zero")), "no such file", {}],
    ["somebody else's", () => card(checked("/etc/passwd")), "another content than the card says", {}],
    ["had by an unknown scheme", () => card(checked("ftp://h/tokenizer.json")), "not had by ftp", {}],
    [
      "at an address where nobody listens",
      () => card(checked("http://127.0.0.1:2/tokenizer.json")),
      "cannot be fetched: ECONNREFUSED",
      {},
    ],
  ];
  it.each(failures)(
    "that are %s are an outcome that says so, and leave nothing behind",
    async (_name, model, reason, { answer, timeoutMs = 5000 }) => {
      if (answer !== undefined) respond = answer;
      expect(await load(model(), { timeoutMs })).toEqual({ kind: "failed", reason: expect.stringContaining(reason) });
      const left = await readdir(join(folder, "cache"), { recursive: true }).catch(() => []);
      expect(left.filter((name) => name.includes("tokenizer"))).toEqual([]);
    },
  );

  it("are had from behind a redirect, and neither log nor reason shows what is secret in a URL", async () => {
    const lines: string[] = [];
    respond = (response) => {
      if (requests === 1) response.writeHead(307, { location: "/elsewhere?token=secret" }).end();
      else response.end(content);
    };
    const secret = url.replace("http://", "http://user:secret@");
    const told = { ...silentLogger, info: (fields: unknown) => lines.push(JSON.stringify(fields)) };
    const options = { log: told, cacheDir: join(folder, "cache") };
    expect(await loadModelFiles(card(checked(`${url}?token=secret`)), options)).toMatchObject({ kind: "ready" });
    expect(paths).toEqual(["/v1/metadata/m/tokenizer.json?token=secret", "/elsewhere?token=secret"]);
    const outcome = await loadModelFiles(card(checked(`${secret}?token=secret`, "other")), options);
    expect(outcome).toMatchObject({ kind: "failed", reason: expect.stringContaining("larger than") });
    expect(lines).toHaveLength(2);
    expect(`${lines.join("")} ${JSON.stringify(outcome)}`).not.toContain("secret");
  });

  it("are not looked for outside the model path by a slug that is a path", async () => {
    await mkdir(join(folder, "models"));
    await writeFile(join(folder, "config.json"), "{}");
    const model = card(undefined, { slug: "..", config: checked("/nowhere/config.json", "{}") });
    expect(await load(model, { modelPath: join(folder, "models") })).toMatchObject({ kind: "failed" });
  });

  it("of a tensor model are not looked for", async () => {
    expect(await load(card(checked("/nowhere"), { modelInput: "Tensor" }))).toMatchObject({ kind: "ready" });
  });
});

describe("the keeper of model files", () => {
  const owner = {};
  let keeper: ModelFiles;
  let changes: string[];
  let changed: () => void = () => {};

  function keep(firstRetryMs: number): void {
    changes = [];
    keeper = createModelFiles({
      log,
      cacheDir: join(folder, "cache"),
      firstRetryMs,
      changed: (fingerprint) => {
        changes.push(fingerprint);
        changed();
      },
    });
  }
  const nextChange = (): Promise<void> =>
    new Promise((resolve) => {
      changed = resolve;
    });
  afterEach(async () => {
    await keeper.close();
  });

  it("loads once for all who want them", async () => {
    keep(1000);
    const told = nextChange();
    expect(keeper.want([card(checked(url))], owner)).toEqual({ kind: "loading" });
    expect(keeper.want([card(checked(url))], {})).toEqual({ kind: "loading" });
    await told;
    expect(keeper.want([card(checked(url))], owner)).toMatchObject({ kind: "ready" });
    expect([requests, changes]).toEqual([1, ["f"]]);
  });

  it("tries again until the file is there, and says each reason once", async () => {
    keep(5);
    respond = (response) => response.writeHead(requests < 3 ? 503 : 200).end(requests < 3 ? "" : content);
    let told = nextChange();
    keeper.want([card(checked(url))], owner);
    await told;
    expect(keeper.want([card(checked(url))], owner)).toEqual({
      kind: "failed",
      reason: expect.stringContaining("status 503"),
    });
    told = nextChange();
    await told;
    expect(keeper.want([card(checked(url))], owner)).toMatchObject({ kind: "ready" });
    expect([requests, changes.length]).toEqual([3, 2]);
  });

  it("turns at once to a worker that hands the files out from elsewhere", async () => {
    keep(60_000);
    const dead = card(checked("http://127.0.0.1:2/tokenizer.json"));
    let told = nextChange();
    keeper.want([dead], owner);
    await told;
    told = nextChange();
    keeper.want([dead, card(checked(url))], owner);
    await told;
    expect(keeper.want([dead, card(checked(url))], owner)).toMatchObject({ kind: "ready" });
  });

  it("loads four models at a time, and the others in their order", async () => {
    keep(1000);
    const held: ServerResponse[] = [];
    respond = (response) => held.push(response);
    for (let index = 0; index < 10; index++) {
      keeper.want([card(checked(`${url}?${index}`, `${index}`), { fingerprint: `f${index}` })], owner);
    }
    keeper.drop("f5", owner);
    const next = async (count: number): Promise<void> => {
      while (held.length < count) await new Promise((resolve) => setTimeout(resolve, 1));
    };
    await next(4);
    held[0]?.end("0");
    await next(5);
    expect(paths.at(-1)).toContain("?4");
    held[1]?.end("1");
    await next(6);
    expect(paths.at(-1)).toContain("?6");
  });

  it("gives up what nobody wants any more", async () => {
    keep(5);
    const asked = new Promise<ServerResponse>((resolve) => {
      respond = resolve;
    });
    keeper.want([card(checked(url))], owner);
    const response = await asked;
    const gone = new Promise((resolve) => {
      response.on("close", resolve);
    });
    keeper.drop("f", owner);
    await gone;
    await keeper.close();
    expect(changes).toEqual([]);
  });
});

describe("the cache of model files", () => {
  const day = 24 * 60 * 60 * 1000;
  const name = (digit: number): string => String(digit).repeat(64);

  async function fill(...ages: readonly number[]): Promise<string> {
    for (const [index, ageMs] of ages.entries()) {
      const path = join(folder, name(index));
      await mkdir(path);
      await writeFile(join(path, "tokenizer.json"), "x".repeat(100));
      const usedAt = new Date(Date.now() - ageMs);
      await utimes(path, usedAt, usedAt);
    }
    return folder;
  }

  it("loses what was used longest ago when it is too large, but nothing in use, of late, or of others", async () => {
    const path = await fill(4 * day, 5 * day, 3 * day, 2 * day, 0, 1);
    await mkdir(join(path, "other"));
    await limitCache(path, new Set([join(path, name(0))]), Date.now(), 400);
    expect((await readdir(path)).toSorted()).toEqual([name(0), name(3), name(4), name(5), "other"]);
    await limitCache(path, new Set(), Date.now(), 0);
    expect((await readdir(path)).toSorted()).toEqual([name(4), name(5), "other"]);
  });

  it("loses what a process left half-written", async () => {
    const path = await fill(2 * day);
    const part = join(path, name(0), "tokenizer.json.abc.part");
    await writeFile(part, "x");
    await utimes(part, new Date(Date.now() - day), new Date(Date.now() - day));
    await limitCache(path, new Set());
    expect(await readdir(join(path, name(0)))).toEqual(["tokenizer.json"]);
  });
});
