/** Command lines as pflag reads them, and the environment beside them. */
import { describe, expect, it } from "@jest/globals";
import { environmentNameOf, type FlagTable, parseFlags } from "../../../src/config/flags.ts";

const table = {
  name: { type: "string", default: "x", help: "A name." },
  mode: { type: "string", default: "a", oneOf: ["a", "b"], help: "A mode." },
  secure: { type: "bool", default: true, help: "Whether." },
  port: { type: "int", default: 80, min: 1, max: 65535, help: "A port." },
  ratio: { type: "number", default: 0.5, min: 0, max: 1, help: "A ratio." },
  "drain-timeout": { type: "duration", default: 30_000, minMs: 1, help: "A time." },
  size: { type: "bytes", default: 1024, min: 1, help: "A size." },
  hosts: { type: "strings", default: ["h"], help: "Some hosts." },
  ports: { type: "ints", default: [], help: "Some ports." },
  v: { type: "int", default: 2, short: "v", help: "How much." },
  quiet: { type: "bool", default: false, short: "q", help: "Nothing." },
  old: { type: "string", default: "", deprecated: "use --name", help: "" },
  gone: { type: "string", default: "", refused: "write {value} elsewhere", help: "" },
} as const satisfies FlagTable;

const parse = (argv: readonly string[], environment: Record<string, string> = {}) =>
  parseFlags(table, argv, environment);

describe("a command line", () => {
  it.each<readonly [readonly string[], Partial<Record<keyof typeof table, unknown>>]>([
    [[], { name: "x", secure: true, port: 80, "drain-timeout": 30_000, hosts: ["h"], ports: [] }],
    [["--name", "y"], { name: "y" }],
    [["--name=y"], { name: "y" }],
    [["--name="], { name: "" }],
    [["--name", ""], { name: "" }],
    [["--name=a=b"], { name: "a=b" }],
    [["--name", "--port"], { name: "--port", port: 80 }],
    [["--name=1", "--name=2"], { name: "2" }],
    [["--secure"], { secure: true }],
    [["--secure=false"], { secure: false }],
    [["--secure=0"], { secure: false }],
    [["--secure=T"], { secure: true }],
    [["--quiet", "--port", "9"], { quiet: true, port: 9 }],
    [["-q"], { quiet: true }],
    [["-q=false"], { quiet: false }],
    [["-v", "4"], { v: 4 }],
    [["-v4"], { v: 4 }],
    [["-v=4"], { v: 4 }],
    [["--v=4"], { v: 4 }],
    [["--port=+9"], { port: 9 }],
    [["--ratio", "1e-1"], { ratio: 0.1 }],
    [["--ratio=.25"], { ratio: 0.25 }],
    [["--drain-timeout=1m30s"], { "drain-timeout": 90_000 }],
    [["--drain-timeout=1.5h"], { "drain-timeout": 5_400_000 }],
    [["--drain-timeout=50ms"], { "drain-timeout": 50 }],
    [["--size=64Mi"], { size: 64 * 2 ** 20 }],
    [["--size=1.5k"], { size: 1500 }],
    [["--hosts=a,b", "--hosts", "c"], { hosts: ["a", "b", "c"] }],
    [["--hosts=a, b"], { hosts: ["a", "b"] }],
    [["--hosts="], { hosts: [] }],
    [["--ports=1,2", "--ports=3"], { ports: [1, 2, 3] }],
    [["--gone="], { gone: "" }],
  ])("%j", (argv, expected) => {
    const { values, faults } = parse(argv);
    expect(faults).toEqual([]);
    expect(values).toMatchObject(expected);
  });

  it.each<readonly [readonly string[], readonly string[]]>([
    [["--nme=1"], ["unknown flag: --nme (did you mean --name?)"]],
    [["--drain-timout", "1s"], ["unknown flag: --drain-timout (did you mean --drain-timeout?)"]],
    [["--completely-else"], ["unknown flag: --completely-else"]],
    [["--constructor"], ["unknown flag: --constructor"]],
    [["--__proto__=1"], ["unknown flag: --__proto__"]],
    [["-x"], ["unknown flag: -x"]],
    [["--name"], ["--name: needs a value"]],
    [["-v"], ["-v: needs a value"]],
    [["-vx"], ['-v: invalid value "x": expected a whole number']],
    [["--secure=maybe"], ['--secure: invalid value "maybe": expected true or false']],
    [["--port=1.5"], ['--port: invalid value "1.5": expected a whole number']],
    [["--port=0x10"], ['--port: invalid value "0x10": expected a whole number']],
    [["--port="], ['--port: invalid value "": expected a whole number']],
    [["--port=0"], ['--port: invalid value "0": must be at least 1']],
    [["--port=65536"], ['--port: invalid value "65536": must be at most 65535']],
    [["--ratio=2"], ['--ratio: invalid value "2": must be at most 1']],
    [["--mode=c"], ['--mode: invalid value "c": must be one of a, b']],
    [
      ["--drain-timeout=30"],
      ['--drain-timeout: invalid value "30": expected a duration like "50ms", "30s" or "1m30s"'],
    ],
    [["--drain-timeout=-1s"], ['--drain-timeout: invalid value "-1s": must be at least 1ms']],
    [["--size=lots"], ['--size: invalid value "lots": expected a number of bytes like "4194304" or "64Mi"']],
    [["--size=0"], ['--size: invalid value "0": must be at least 1']],
    [["--ports=1,x"], ['--ports: invalid value "1,x": expected a whole number']],
    [["--gone=metric:a"], ["--gone is not accepted: write metric:a elsewhere"]],
    [
      ["--port=x", "--nope", "--mode=z"],
      [
        '--port: invalid value "x": expected a whole number',
        "unknown flag: --nope",
        '--mode: invalid value "z": must be one of a, b',
      ],
    ],
  ])("%j is refused", (argv, expected) => {
    expect(parse(argv).faults).toEqual(expected);
  });

  it("has positional arguments, all of them after --", () => {
    expect(parse(["a", "--secure", "b", "-", "--", "--port", "-v"]).positional).toEqual([
      "a",
      "b",
      "-",
      "--port",
      "-v",
    ]);
  });

  it.each(["--help", "-h"])("asks for help with %s, whatever else is wrong", (flag) => {
    expect(parse(["--nope", flag]).helpWanted).toBe(true);
  });

  it("warns of a deprecated flag", () => {
    expect(parse(["--old=1"]).warnings).toEqual(["--old is deprecated: use --name"]);
  });

  it("says what was given", () => {
    expect([...parse(["--name=y", "-v3"], { SIGNALBOX_PORT: "9" }).given]).toEqual(["port", "name", "v"]);
  });
});

describe("the environment", () => {
  it("names a flag in upper snake case", () => {
    expect(environmentNameOf("grpc-max-recv-msg-size")).toBe("SIGNALBOX_GRPC_MAX_RECV_MSG_SIZE");
  });

  it.each<readonly [Record<string, string>, readonly string[], Partial<Record<keyof typeof table, unknown>>]>([
    [{ SIGNALBOX_PORT: "9" }, [], { port: 9 }],
    [{ SIGNALBOX_PORT: "9" }, ["--port=10"], { port: 10 }],
    [{ SIGNALBOX_SECURE: "false" }, [], { secure: false }],
    [{ SIGNALBOX_SECURE: "false" }, ["--secure"], { secure: true }],
    [{ SIGNALBOX_HOSTS: "a,b" }, [], { hosts: ["a", "b"] }],
    [{ SIGNALBOX_HOSTS: "a,b" }, ["--hosts=c", "--hosts=d"], { hosts: ["c", "d"] }],
    [{ SIGNALBOX_DRAIN_TIMEOUT: "1s" }, [], { "drain-timeout": 1000 }],
    [{ SIGNALBOX_PORT: "", SIGNALBOX_NAME: "", SIGNALBOX_HOSTS: "" }, [], { port: 80, name: "x", hosts: ["h"] }],
    [{ PORT: "9", signalbox_port: "9" }, [], { port: 80 }],
  ])("%j with %j", (environment, argv, expected) => {
    const { values, faults } = parse(argv, environment);
    expect(faults).toEqual([]);
    expect(values).toMatchObject(expected);
  });

  it("is refused as a flag is, by the name of the variable", () => {
    expect(parse([], { SIGNALBOX_PORT: "x" }).faults).toEqual([
      'SIGNALBOX_PORT: invalid value "x": expected a whole number',
    ]);
  });

  it("that Kubernetes sets for a Service called signalbox is no port", () => {
    const { values, warnings, faults } = parse([], { SIGNALBOX_PORT: "tcp://10.96.0.7:9002" });
    expect(faults).toEqual([]);
    expect(values.port).toBe(80);
    expect(warnings).toEqual(["SIGNALBOX_PORT is ignored: Kubernetes sets it for a Service of that name"]);
  });
});
