/** Dynamo's services that need no runtime (the select service, the standalone indexer, the slot tracker), each on a free port: oracles for ours. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "./ports.ts";
import { type DynamoProcess, isolatedEnvironment, startPython } from "./process.ts";

export interface DynamoService {
  readonly url: string;
  readonly process: DynamoProcess;
  close(): Promise<void>;
}

/** It answers HTTP when this resolves. Settings of the router are environment (DYN_ROUTER_*), the rest flags. */
export async function startDynamoService(
  name: "select_service" | "indexer" | "slot_tracker",
  args: readonly string[] = [],
  environment: Readonly<Record<string, string>> = {},
): Promise<DynamoService> {
  const directory = mkdtempSync(join(tmpdir(), "signalbox-dynamo-"));
  const port = await freePorts();
  const url = `http://127.0.0.1:${port}`;
  const process = startPython(name, directory, [`dynamo.${name}`, `--port=${port}`, ...args], {
    ...isolatedEnvironment(directory),
    ...environment,
  });
  const close = async (): Promise<void> => {
    await process.close();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    await process.until("an answer on its port", async () => {
      try {
        await (await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) })).arrayBuffer();
        return true;
      } catch {
        return undefined;
      }
    });
    return { url, process, close };
  } catch (error) {
    await close();
    throw error;
  }
}
