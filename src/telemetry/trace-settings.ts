/** OpenTelemetry's environment (OpenTelemetry specification, "Environment Variable Specification") as far as spans need it. */

type Environment = Readonly<Record<string, string | undefined>>;

export interface TraceSettings {
  readonly exporter: "otlp" | "console";
  /** Undefined: the exporter's default, plaintext gRPC to localhost:4317. */
  readonly endpoint: string | undefined;
  /** Share of requests without a sampled parent that are traced. */
  readonly rootRatio: number;
  /** False: a client's own decision is not asked for. */
  readonly followsParent: boolean;
  readonly resource: Readonly<Record<string, string>>;
  /** What of the environment is not understood. */
  readonly warnings: readonly string[];
}

const defaultRatio = 0.1;

/** Undefined where nobody asked for spans: no exporter named and no endpoint set, or the SDK disabled. */
export function traceSettingsFrom(environment: Environment): TraceSettings | undefined {
  const warnings: string[] = [];
  const value = (name: string): string | undefined => environment[name]?.trim() || undefined;
  const endpoint = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") ?? value("OTEL_EXPORTER_OTLP_ENDPOINT");
  const wanted = value("OTEL_TRACES_EXPORTER") ?? (endpoint === undefined ? "none" : "otlp");
  if (wanted === "none" || value("OTEL_SDK_DISABLED")?.toLowerCase() === "true") return undefined;
  if (wanted !== "otlp" && wanted !== "console") {
    warnings.push(`OTEL_TRACES_EXPORTER=${wanted}: only otlp, console and none are known; otlp is used`);
  }
  const protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") ?? value("OTEL_EXPORTER_OTLP_PROTOCOL") ?? "grpc";
  if (protocol !== "grpc") warnings.push(`OTEL_EXPORTER_OTLP_PROTOCOL=${protocol}: only grpc is known; grpc is used`);
  return {
    exporter: wanted === "console" ? "console" : "otlp",
    endpoint,
    ...samplerFrom(value("OTEL_TRACES_SAMPLER"), value("OTEL_TRACES_SAMPLER_ARG"), warnings),
    resource: {
      "service.name": "signalbox-epp",
      ...resourceFrom(value("OTEL_RESOURCE_ATTRIBUTES"), warnings),
      ...(value("OTEL_SERVICE_NAME") === undefined ? {} : { "service.name": value("OTEL_SERVICE_NAME") ?? "" }),
    },
    warnings,
  };
}

function samplerFrom(
  name: string | undefined,
  argument: string | undefined,
  warnings: string[],
): Pick<TraceSettings, "rootRatio" | "followsParent"> {
  switch (name) {
    case "always_on":
    case "parentbased_always_on":
      return { rootRatio: 1, followsParent: name !== "always_on" };
    case "always_off":
    case "parentbased_always_off":
      return { rootRatio: 0, followsParent: name !== "always_off" };
    case "traceidratio":
    case "parentbased_traceidratio":
    case undefined:
      return { rootRatio: ratioFrom(argument, warnings), followsParent: name !== "traceidratio" };
    default:
      warnings.push(`OTEL_TRACES_SAMPLER=${name} is not known; parentbased_traceidratio is used`);
      return { rootRatio: ratioFrom(argument, warnings), followsParent: true };
  }
}

function ratioFrom(argument: string | undefined, warnings: string[]): number {
  if (argument === undefined) return defaultRatio;
  const ratio = /^[\d.]+(e-?\d+)?$/i.test(argument) ? Number(argument) : Number.NaN;
  if (ratio >= 0 && ratio <= 1) return ratio;
  warnings.push(`OTEL_TRACES_SAMPLER_ARG=${argument} is no number from 0 to 1; ${defaultRatio} is used`);
  return defaultRatio;
}

/** "key=value,key=value", percent-encoded (Resource SDK specification). */
function resourceFrom(list: string | undefined, warnings: string[]): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const pair of list?.split(",") ?? []) {
    const equals = pair.indexOf("=");
    try {
      if (equals <= 0) throw new RangeError("no key");
      attributes[pair.slice(0, equals).trim()] = decodeURIComponent(pair.slice(equals + 1).trim());
    } catch {
      warnings.push(`OTEL_RESOURCE_ATTRIBUTES: ${JSON.stringify(pair)} is not key=value and ignored`);
    }
  }
  return attributes;
}
