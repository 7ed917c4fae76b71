/** The picker's command line: every flag of the reference with its default, what is refused, and what --help says. */
import { describe, expect, it } from "@jest/globals";
import { type EppSettings, eppFlags } from "../../../src/commands/epp-flags.ts";
import { faultsOfEppFlags } from "../../../src/commands/epp-validation.ts";
import { describeFlags } from "../../../src/config/flag-help.ts";
import { type FlagSpec, parseFlags } from "../../../src/config/flags.ts";

/** Written down from the reference's documentation; durations in milliseconds. */
const referenceDefaults: Readonly<Record<string, unknown>> = {
  "grpc-port": 9002,
  "grpc-health-port": 9003,
  "metrics-port": 9090,
  // One name in the reference, any number here.
  "pool-name": [],
  "prefill-pool-name": "",
  "pool-namespace": "",
  "pool-group": "inference.networking.k8s.io",
  "endpoint-selector": "",
  "endpoint-target-ports": [],
  "disable-endpoint-subset-filter": false,
  "emit-endpoint-scores": false,
  "refresh-metrics-interval": 50,
  "refresh-prometheus-metrics-interval": 5_000,
  "metrics-staleness-threshold": 2_000,
  "total-queued-requests-metric": "",
  "total-running-requests-metric": "",
  "kv-cache-usage-percentage-metric": "",
  "lora-info-metric": "",
  "cache-info-metric": "",
  "config-file": "",
  "config-text": "",
  "allow-experimental-plugins": false,
  "ha-enable-leader-election": false,
  "drain-timeout": 30_000,
  "grpc-max-recv-msg-size": "",
  "grpc-max-send-msg-size": "",
  "secure-serving": true,
  "cert-path": "",
  "enable-cert-reload": false,
  "tls-min-version": "",
  "tls-cipher-suites": [],
  "metrics-endpoint-auth": true,
  "metrics-client-ca-file": "",
  "metrics-cert-dir": "",
  "enable-pprof": true,
  tracing: true,
  "health-checking": false,
  "enable-grpc-stream-metrics": false,
  v: 2,
  "zap-devel": false,
  "zap-encoder": "",
  "zap-log-level": "",
  "zap-stacktrace-level": "",
  "zap-time-encoding": "",
};

const ours: Readonly<Record<string, unknown>> = {
  "bind-address": "",
  "dynamo-frontend": [],
  endpoints: [],
  manifests: "",
  "request-timeout": 90_000,
  "drain-grace": 90_000,
  "max-request-body-bytes": 64 * 2 ** 20,
  "max-buffered-bytes": 2 ** 30,
  "max-streams-per-connection": 1024,
  "max-header-bytes": 64 * 2 ** 10,
  "echo-request-headers": false,
  "error-format": "json",
};

function faults(argv: readonly string[]): readonly string[] {
  const parsed = parseFlags(eppFlags, argv, {});
  return parsed.faults.length > 0 ? parsed.faults : faultsOfEppFlags(parsed.values as EppSettings);
}

describe("the flags of signalbox epp", () => {
  it.each(Object.entries({ ...referenceDefaults, ...ours }))("have --%s with the default %j", (name, value) => {
    expect((eppFlags as Readonly<Record<string, FlagSpec>>)[name]?.default).toEqual(value);
  });

  it("are accepted as charts write them", () => {
    const argv = [
      "--pool-name",
      "p",
      "--pool-namespace=ns",
      "--secure-serving=false",
      "--v",
      "4",
      "--zap-encoder",
      "json",
    ];
    expect(faults([...argv, "--endpoints", "10.0.0.1:8000,[fd00::1]:8000", "--endpoints=10.0.0.2:8000"])).toEqual([]);
  });

  it.each<readonly [readonly string[], readonly (string | RegExp)[]]>([
    [[], [/^no endpoints: give --pool-name or --endpoint-selector \(Kubernetes\), --endpoints ip:port,..., or a /]],
    [["--endpoint-selector=app=vllm"], ["--endpoint-target-ports: --endpoint-selector needs 1 to 8 ports"]],
    [
      ["--endpoint-selector=app=vllm", "--endpoint-target-ports=1,2,3,4,5,6,7,8,9"],
      ["--endpoint-target-ports: --endpoint-selector needs 1 to 8 ports"],
    ],
    [
      ["--endpoint-selector=app=vllm", "--endpoint-target-ports=0,70000"],
      ["--endpoint-target-ports: 0 is no port", "--endpoint-target-ports: 70000 is no port"],
    ],
    [
      ["--pool-name=p", "--endpoint-selector=app=vllm", "--endpoint-target-ports=8000"],
      ["either --pool-name or --endpoint-selector must be set, not both"],
    ],
    [["--pool-name=a,b"], ["--pool-name: of several pools each but the first needs a port of its own: b:PORT"]],
    [["--pool-name=a", "--prefill-pool-name=b"], []],
    [["--pool-name=a", "--prefill-pool-name=a"], ["--prefill-pool-name: a is --pool-name already"]],
    [["--pool-name=a", "--prefill-pool-name=B"], ['--prefill-pool-name: "B" is not a pool\'s name']],
    [["--pool-name=a,b:9", "--prefill-pool-name=c"], ["--prefill-pool-name: needs one --pool-name"]],
    [
      ["--endpoints=10.0.0.1:8000", "--pool-name=a", "--prefill-pool-name=b"],
      ["--prefill-pool-name: has no place beside --endpoints"],
    ],
    [["--pool-name=a,a:9"], ["--pool-name: a is named twice"]],
    [["--pool-name=a:9,b:9"], ["--pool-name: port 9 is given to two pools"]],
    [
      ["--pool-name=a:0,B,c:1:2"],
      [
        '--pool-name: "a:0": the port must be 1 to 65535',
        '--pool-name: "B" is not NAME or NAME:PORT',
        '--pool-name: "c:1:2" is not NAME or NAME:PORT',
      ],
    ],
    [["--pool-name=a,b:9", "--endpoints=10.0.0.1:1"], ["--pool-name: several pools have no place beside --endpoints"]],
    [
      ["--pool-name=a", "--pool-group=example.com"],
      ["--pool-group: must be one of inference.networking.k8s.io, inference.networking.x-k8s.io"],
    ],
    [["--config-file=a", "--config-text=b"], ["--config-file and --config-text exclude each other"]],
    [["--endpoints=nonsense"], [/^--endpoints: /]],
    [
      ["--endpoints=10.0.0.1:1", "--grpc-max-recv-msg-size=big"],
      ['--grpc-max-recv-msg-size: expected a number of bytes like "4194304" or "64Mi"'],
    ],
    [
      ["--endpoints=10.0.0.1:1", "--peers=a:0", "--peers=b c"],
      ['--peers: "a:0": the port must be 1 to 65535', '--peers: "b c": expected host:port'],
    ],
    [["--endpoints=10.0.0.1:1", "--peers=a", "--peer-service=b"], ["--peers and --peer-service exclude each other"]],
    [["--endpoints=10.0.0.1:1", "--peer-secret-file=a"], ["--peer-secret-file: needs --peers or --peer-service"]],
    [["--endpoints=10.0.0.1:1", "--enable-cert-reload"], [/^--enable-cert-reload: needs --cert-path/]],
    [
      ["--endpoints=10.0.0.1:1", "--zap-log-level=loud"],
      [/^--zap-log-level: expected debug, info, warn, error, or a verbosity/],
    ],
    [["--endpoints=10.0.0.1:1", "--tls-min-version=TLS1.3"], [/must be one of VersionTLS12, VersionTLS13$/]],
  ])("%j are refused", (argv, expected) => {
    expect(faults(argv)).toEqual(
      expected.map((fault) => (typeof fault === "string" ? fault : expect.stringMatching(fault))),
    );
  });

  it.each([
    ["total-queued-requests-metric", "queuedRequestsSpec"],
    ["total-running-requests-metric", "runningRequestsSpec"],
    ["kv-cache-usage-percentage-metric", "kvUsageSpec"],
    ["lora-info-metric", "loraSpec"],
    ["cache-info-metric", "cacheInfoSpec"],
  ])("--%s is refused, as by the reference, with the configuration to write instead", (flag, key) => {
    expect(faults(["--endpoints=10.0.0.1:1", `--${flag}=my:metric`])).toEqual([
      `--${flag} is not accepted: name the metric in the configuration: plugins: [{type: core-metrics-extractor, parameters: {defaultEngine: mine, engineConfigs: [{name: mine, ${key}: "my:metric"}]}}]`,
    ]);
    expect(faults(["--endpoints=10.0.0.1:1", `--${flag}=`])).toEqual([]);
  });
});

describe("--help", () => {
  const help = describeFlags(eppFlags);

  it("lists every flag that is of use once, with what it is for", () => {
    for (const [name, spec] of Object.entries(eppFlags) as [string, FlagSpec][]) {
      const spelling = new RegExp(`^ {2,}(-\\w, )?--?${name}( |$)`, "gm");
      expect([name, help.match(spelling)?.length ?? 0]).toEqual([name, spec.refused === undefined ? 1 : 0]);
      if (spec.refused === undefined) expect(spec.help).not.toBe("");
    }
  });

  it("fits a hundred columns", () => {
    expect(help.split("\n").filter((line) => line.length > 100)).toEqual([]);
  });

  it("shows defaults as they are typed", () => {
    expect(help).toMatch(/--drain-timeout duration.*\n.*\(default\s+30s\)/);
    expect(help).toMatch(/--max-request-body-bytes bytes[\s\S]{0,200}\(default 64Mi\)/);
    expect(help).not.toContain("One of ,");
  });
});
