/** W3C Trace Context (Recommendation, 2021): what a client's `traceparent` says, and the one that leaves. Anything malformed is no context. */

export interface RemoteContext {
  readonly traceId: string;
  readonly spanId: string;
  readonly isSampled: boolean;
}

const sampledFlag = 1;

function isLowerHex(text: string, start: number, end: number): boolean {
  for (let i = start; i < end; i++) {
    const code = text.charCodeAt(i);
    if (!((code >= 48 && code <= 57) || (code >= 97 && code <= 102))) return false;
  }
  return true;
}

/** §3.2: version-traceid-parentid-flags. Later versions may append fields; version ff and ids of zeros are invalid. */
export function parseTraceparent(value: string | undefined): RemoteContext | undefined {
  if (value === undefined || value.length < 55) return undefined;
  if (value.charAt(2) !== "-" || value.charAt(35) !== "-" || value.charAt(52) !== "-") return undefined;
  if (
    !isLowerHex(value, 0, 2) ||
    !isLowerHex(value, 3, 35) ||
    !isLowerHex(value, 36, 52) ||
    !isLowerHex(value, 53, 55)
  ) {
    return undefined;
  }
  const version = value.slice(0, 2);
  if (version === "ff" || (version === "00" && value.length !== 55)) return undefined;
  if (value.length > 55 && value.charAt(55) !== "-") return undefined;
  const traceId = value.slice(3, 35);
  const spanId = value.slice(36, 52);
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, isSampled: (Number.parseInt(value.slice(53, 55), 16) & sampledFlag) !== 0 };
}

export function encodeTraceparent(traceId: string, spanId: string): string {
  return `00-${traceId}-${spanId}-01`;
}
