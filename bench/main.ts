/** `npm run bench`: measures the picker, or two of them, and writes docs/performance.md. */
import { readFile, writeFile } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { packageRoot } from "../src/app/envoy.ts";
import { allocation } from "./allocation.ts";
import { cpuPerStream } from "./cpu-per-stream.ts";
import { decisionLatency } from "./decision-latency.ts";
import { dynamoDecision } from "./dynamo-decision.ts";
import { dynamoHitRate } from "./dynamo-hit-rate.ts";
import { dynamoRecovery } from "./dynamo-recovery.ts";
import { engineEvents } from "./engine-events.ts";
import { envoyFirstByte } from "./envoy.ts";
import { gatewayModes } from "./gateway-modes.ts";
import { heldStreams } from "./held-streams.ts";
import { kubernetesFleet } from "./kubernetes-fleet.ts";
import { kvDecoding } from "./kv-decoding.ts";
import { kvIndex } from "./kv-index.ts";
import type { Context, Measurement, Part, Run } from "./measurement.ts";
import { createPeerStart, peerName } from "./peer.ts";
import { prefillRouterPlan } from "./prefill-router-plan.ts";
import { prefillRouterSelection } from "./prefill-router-selection.ts";
import { setNice } from "./priority.ts";
import { remoteIndex } from "./remote-index.ts";
import { replicaHitRate } from "./replica-hit-rate.ts";
import { replicaSync } from "./replica-sync.ts";
import { type Column, type ReportInput, report, summary } from "./report.ts";
import { dynamoPart, splitPage } from "./report-dynamo.ts";
import { kubernetesPart } from "./report-kubernetes.ts";
import { startSignalbox } from "./rig.ts";
import { scraping } from "./scraping.ts";
import { sharedCache } from "./shared-cache.ts";
import { sseChunk } from "./sse-chunk.ts";
import { transportComparison } from "./transports.ts";

const ofPicker: readonly Measurement[] = [
  cpuPerStream,
  sseChunk,
  decisionLatency,
  allocation,
  heldStreams,
  scraping,
  envoyFirstByte,
  gatewayModes,
  transportComparison,
  replicaSync,
  replicaHitRate,
];
/** In this process, and beside Dynamo's own code: another picker has no part in them. */
const ofDynamo: readonly Measurement[] = [
  kvIndex,
  kvDecoding,
  engineEvents,
  prefillRouterSelection,
  prefillRouterPlan,
  sharedCache,
  remoteIndex,
  dynamoDecision,
  dynamoRecovery,
  dynamoHitRate,
];
/** Over a real API server, which is built once (make test-k8s). */
const ofKubernetes: readonly Measurement[] = [kubernetesFleet];
const parts: Readonly<Record<Part, readonly Measurement[]>> = {
  picker: ofPicker,
  dynamo: ofDynamo,
  kubernetes: ofKubernetes,
};
const measurements = [...ofPicker, ...ofDynamo, ...ofKubernetes];

const help = `Usage: npm run bench -- [--quick] [--part PART | --only NAME,...] [--runs N] [--nice=N] [--output FILE]

Measures the picker on one core and writes docs/performance.md.

  --quick        one short run of each; writes nothing
  --part PART    picker, dynamo or kubernetes: that part of the page alone
  --only NAMES   some of: ${measurements.map(({ name }) => name).join(", ")}; writes nothing
  --runs N       runs of each (default 5)
  --nice=N       nice value of what is measured for latency, -20 to 0 (default 0): for machines that others use, too
  --output FILE  where the page goes (default docs/performance.md)

Environment:
  PEER_EPP       another picker to measure beside ours
  PEER_EPP_ARGS  its arguments, with {config} {endpoints} {grpcPort} {healthPort} {metricsPort} filled in
  ENVOY          the Envoy to use
  DYNAMO_PYTHON  an interpreter with Dynamo's wheels (default what "make dynamo" installs; without it Dynamo's figures stay empty)
`;

function partOf(name: string | undefined): Part | undefined {
  if (name === undefined || name === "picker" || name === "dynamo" || name === "kubernetes") return name;
  throw new Error(`--part: ${name} is none of picker, dynamo, kubernetes`);
}

function chosen(names: string | undefined, part: Part | undefined): readonly Measurement[] {
  if (names === undefined) return part === undefined ? measurements : parts[part];
  return names.split(",").map((name) => {
    const found = measurements.find((measurement) => measurement.name === name);
    if (found === undefined) throw new Error(`--only: no measurement is called ${name}`);
    return found;
  });
}

const startedMs = performance.now();
// Ends by exit, so that what rig.ts started is ended too.
process.once("SIGINT", () => process.exit(130));
process.once("SIGTERM", () => process.exit(143));

function say(text: string): void {
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(0).padStart(4);
  process.stdout.write(`${seconds} s  ${text}\n`);
}

type Candidate = Pick<Context, "start" | "isOurs"> & { readonly name: string };

function candidates(): Candidate[] {
  const peer = process.env["PEER_EPP"];
  const ours: Candidate = { name: "Signalbox", start: startSignalbox, isOurs: true };
  if (peer === undefined || peer === "") return [ours];
  return [ours, { name: peerName(peer), start: createPeerStart(peer, process.env["PEER_EPP_ARGS"]), isOurs: false }];
}

/** A picker that cannot do one thing is still measured in the others; its cells stay empty. */
async function measureOrSay(measurement: Measurement, context: Context): Promise<readonly Run[]> {
  try {
    return await measurement.measure(context);
  } catch (error) {
    say(`  failed: ${error instanceof Error ? error.message : String(error)}`);
    if (context.isOurs) process.exitCode = 1;
    return [];
  }
}

/** Throws on a flag that is not in the table; the types of the flags follow from it. */
function readFlags() {
  return parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string" },
      part: { type: "string" },
      runs: { type: "string", default: "5" },
      nice: { type: "string", default: "0" },
      output: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  }).values;
}

async function main(): Promise<void> {
  const flags = readFlags();
  if (flags.help) {
    process.stdout.write(help);
    return;
  }
  const runs = flags.quick ? 1 : Number(flags.runs);
  if (!Number.isInteger(runs) || runs < 1) throw new Error(`--runs: ${flags.runs} is no number of runs`);
  const nice = Number(flags.nice);
  if (!(nice >= -20 && nice <= 0)) throw new Error(`--nice: ${flags.nice} is not from -20 to 0`);
  const part = partOf(flags.part);
  const selected = chosen(flags.only, part);
  const loadBefore = loadavg()[0] ?? 0;
  const collected = candidates().map((candidate) => ({ ...candidate, runs: new Map<string, readonly Run[]>() }));
  // Both pickers of one measurement one after the other: what disturbs the machine for long disturbs both.
  for (const measurement of selected) {
    for (const { name, start, isOurs, runs: results } of collected) {
      if (!isOurs && !ofPicker.includes(measurement)) continue;
      say(`${name}: ${measurement.what}`);
      const context: Context = {
        start,
        isOurs,
        runs,
        measureMs: flags.quick ? 600 : 1_500,
        warmupMs: flags.quick ? 400 : 800,
        progress: (text) => say(`  ${text}`),
      };
      // Processes inherit it.
      if (measurement.isLatency && nice !== 0) setNice(nice);
      results.set(measurement.name, await measureOrSay(measurement, context));
      if (measurement.isLatency && nice !== 0) setNice(0);
    }
  }
  const columns: Column[] = collected;
  const input: ReportInput = {
    measurements: selected,
    columns,
    runs,
    seconds: (performance.now() - startedMs) / 1000,
    loadBefore,
    nice,
    date: new Date(),
  };
  process.stdout.write(`\n${summary(input)}\n`);
  const isWhole = !flags.quick && flags.only === undefined;
  if (isWhole || flags.output !== undefined) {
    const file = flags.output ?? join(packageRoot, "docs/performance.md");
    await writeFile(file, await pageOf(input, file));
    say(`wrote ${file}`);
  }
}

/** The parts that were measured anew; the others stay as they stand in the file. */
async function pageOf(input: ReportInput, file: string): Promise<string> {
  const before = splitPage(await readFile(file, "utf8").catch(() => ""));
  const measured = (of: readonly Measurement[]): ReportInput => ({
    ...input,
    measurements: input.measurements.filter((each) => of.includes(each)),
  });
  const [picker, dynamo, kubernetes] = [measured(ofPicker), measured(ofDynamo), measured(ofKubernetes)];
  const texts = [
    picker.measurements.length > 0 ? report(picker) : before.picker,
    dynamo.measurements.length > 0 ? dynamoPart(dynamo) : before.dynamo,
    kubernetes.measurements.length > 0 ? kubernetesPart(kubernetes) : before.kubernetes,
  ];
  return texts.filter((text) => text !== "").join("\n");
}

main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
