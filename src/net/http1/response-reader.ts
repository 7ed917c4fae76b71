/**
 * Reads one HTTP/1.1 response to a GET (RFC 9112) from bytes as they arrive. Header values are compared in place; a body that arrives in one
 * read as one piece is handed on as a view of that read, anything else is gathered in a buffer that the reader keeps for the next response.
 */

export interface ResponseLimits {
  readonly maxHeaderBytes: number;
  readonly maxBodyBytes: number;
}

/** What is wrong with a response; `code` of the error the client reports. */
export type ResponseFault =
  | "MALFORMED_RESPONSE"
  | "HEADERS_TOO_LARGE"
  | "BODY_TOO_LARGE"
  | "UNSUPPORTED_ENCODING"
  | "TRUNCATED";

/** Where in a response the reader is. Chunked bodies go size line → data → data end → … → trailers. */
type State = "head" | "length" | "until-close" | "chunk-size" | "chunk-data" | "chunk-end" | "trailers" | "complete";

const cr = 13;
const lf = 10;
const colon = 58;
const contentLength = Buffer.from("content-length");
const transferEncoding = Buffer.from("transfer-encoding");
const contentEncoding = Buffer.from("content-encoding");
const connection = Buffer.from("connection");
const location = Buffer.from("location");
const noBytes = Buffer.alloc(0);
/** A chunk size of more digits than this is beyond every limit. */
const maxChunkSizeDigits = 8;
const maxChunkLineBytes = 1024;

export class ResponseReader {
  readonly #limits: ResponseLimits;
  #state: State = "head";
  /** Bytes of the body piece (or of the whole body by length) still to come. */
  #remaining = 0;
  /** Head, size line or trailer bytes that arrived without their end. */
  #partial: Buffer = noBytes;
  #trailerBytes = 0;
  /** The only piece of the body so far, a view of the current read; gathered when another follows or the read ends. */
  #piece: Buffer = noBytes;
  #gathered: Buffer = noBytes;
  #gatheredLength = 0;

  status = 0;
  /** Value of the Location header; "" without one. */
  location = "";
  /** False when the peer closes after this response, or the body ends only with the connection. */
  keepsAlive = true;

  constructor(limits: ResponseLimits) {
    this.#limits = limits;
  }

  /** Begins the next response. */
  reset(): void {
    this.#state = "head";
    this.#remaining = 0;
    this.#partial = noBytes;
    this.#trailerBytes = 0;
    this.#piece = noBytes;
    this.#gatheredLength = 0;
    this.status = 0;
    this.location = "";
    this.keepsAlive = true;
  }

  get isComplete(): boolean {
    return this.#state === "complete";
  }

  /** Nothing of a response has arrived. */
  get isUntouched(): boolean {
    return this.#state === "head" && this.#partial.length === 0;
  }

  /** The body of a complete response: valid until the next read of any connection or the next reset. */
  body(): Buffer {
    return this.#gatheredLength === 0 ? this.#piece : this.#gathered.subarray(0, this.#gatheredLength);
  }

  /** Takes one read. Bytes after the end of the response make it malformed: nobody asked for more. */
  push(bytes: Buffer): ResponseFault | undefined {
    let at = 0;
    while (at < bytes.length) {
      let taken: number | ResponseFault;
      switch (this.#state) {
        case "head":
          taken = this.#takeHead(bytes, at);
          break;
        case "length":
        case "chunk-data":
          taken = this.#takeBody(bytes, at, Math.min(this.#remaining, bytes.length - at));
          break;
        case "until-close":
          taken = this.#takeBody(bytes, at, bytes.length - at);
          break;
        case "chunk-size":
        case "chunk-end":
        case "trailers":
          taken = this.#takeLine(bytes, at);
          break;
        case "complete":
          return "MALFORMED_RESPONSE";
      }
      if (typeof taken === "string") return taken;
      at += taken;
    }
    if (this.#state !== "complete") this.#gather();
    return undefined;
  }

  /** The peer has closed: ends a body without a length. */
  end(): ResponseFault | undefined {
    if (this.#state === "until-close") this.#state = "complete";
    return this.#state === "complete" ? undefined : "TRUNCATED";
  }

  #takeHead(bytes: Buffer, at: number): number | ResponseFault {
    const held = this.#partial.length;
    if (held > 0) return this.#takeSplitHead(bytes, at);
    const end = bytes.indexOf("\r\n\r\n", at, "latin1");
    if (end < 0) {
      if (bytes.length - at > this.#limits.maxHeaderBytes) return "HEADERS_TOO_LARGE";
      this.#partial = Buffer.from(bytes.subarray(at));
      return bytes.length - at;
    }
    if (end + 4 - at > this.#limits.maxHeaderBytes) return "HEADERS_TOO_LARGE";
    return this.#readHead(bytes, at, end + 2) ?? end + 4 - at;
  }

  #takeSplitHead(bytes: Buffer, at: number): number | ResponseFault {
    const held = this.#partial.length;
    const take = Math.min(bytes.length - at, this.#limits.maxHeaderBytes + 1 - held);
    const head = Buffer.concat([this.#partial, bytes.subarray(at, at + take)]);
    const end = head.indexOf("\r\n\r\n", Math.max(0, held - 3), "latin1");
    if (end < 0) {
      if (head.length > this.#limits.maxHeaderBytes) return "HEADERS_TOO_LARGE";
      this.#partial = head;
      return take;
    }
    if (end + 4 > this.#limits.maxHeaderBytes) return "HEADERS_TOO_LARGE";
    this.#partial = noBytes;
    return this.#readHead(head, 0, end + 2) ?? end + 4 - held;
  }

  /** Status line and header lines in [start, end), each ended by CRLF. */
  #readHead(head: Buffer, start: number, end: number): ResponseFault | undefined {
    // "HTTP/1.1 200 OK": the version's digits may differ, the status is at a fixed place.
    const status = statusOf(head, start);
    if (status === undefined) return "MALFORMED_RESPONSE";
    this.status = status;
    this.keepsAlive = head[start + 7] === 49;
    let length = -1;
    let isChunked = false;
    let line = head.indexOf(lf, start) + 1;
    while (line < end) {
      const next = head.indexOf(lf, line) + 1;
      // Only five names matter, and they begin with c, l or t.
      const first = (head[line] ?? 0) | 0x20;
      if (first === 0x63 || first === 0x6c || first === 0x74) {
        const nameEnd = head.indexOf(colon, line);
        if (nameEnd > line && nameEnd < next) {
          if (isName(head, line, nameEnd, contentLength)) {
            const value = parseDigits(head, nameEnd + 1, next - 2);
            if (value < 0 || (length >= 0 && length !== value)) return "MALFORMED_RESPONSE";
            length = value;
          } else if (isName(head, line, nameEnd, transferEncoding)) {
            if (headerValue(head, nameEnd + 1, next) !== "chunked") return "UNSUPPORTED_ENCODING";
            isChunked = true;
          } else if (isName(head, line, nameEnd, contentEncoding)) {
            if (headerValue(head, nameEnd + 1, next) !== "identity") return "UNSUPPORTED_ENCODING";
          } else if (isName(head, line, nameEnd, connection)) {
            const value = headerValue(head, nameEnd + 1, next);
            if (value.includes("close")) this.keepsAlive = false;
            else if (value.includes("keep-alive")) this.keepsAlive = true;
          } else if (isName(head, line, nameEnd, location)) {
            this.location = head.toString("latin1", nameEnd + 1, next).trim();
          }
        }
      }
      line = next;
    }
    if (status >= 100 && status < 200) return status === 101 ? "MALFORMED_RESPONSE" : undefined;
    return this.#beginBody(status, isChunked, length);
  }

  #beginBody(status: number, isChunked: boolean, length: number): ResponseFault | undefined {
    if (status === 204 || status === 304) this.#state = "complete";
    else if (isChunked) this.#state = "chunk-size";
    else if (length > this.#limits.maxBodyBytes) return "BODY_TOO_LARGE";
    else if (length >= 0) {
      this.#remaining = length;
      this.#state = length === 0 ? "complete" : "length";
    } else {
      this.keepsAlive = false;
      this.#state = "until-close";
    }
    return undefined;
  }

  #takeBody(bytes: Buffer, at: number, size: number): number | ResponseFault {
    if (this.#piece.length + this.#gatheredLength + size > this.#limits.maxBodyBytes) return "BODY_TOO_LARGE";
    this.#gather();
    this.#piece = bytes.subarray(at, at + size);
    // A first piece stays a view for as long as it may be the only one.
    if (this.#gatheredLength > 0) this.#gather();
    this.#remaining -= size;
    if (this.#remaining === 0) {
      if (this.#state === "length") this.#state = "complete";
      else if (this.#state === "chunk-data") this.#state = "chunk-end";
    }
    return size;
  }

  /** Moves the piece, a view of a read that ends or is no longer alone, into the kept buffer. */
  #gather(): void {
    const size = this.#piece.length;
    if (size === 0) return;
    const needed = this.#gatheredLength + size;
    if (needed > this.#gathered.length) {
      const grown = Buffer.allocUnsafeSlow(
        Math.min(Math.max(needed * 2, 65_536), Math.max(needed, this.#limits.maxBodyBytes)),
      );
      this.#gathered.copy(grown, 0, 0, this.#gatheredLength);
      this.#gathered = grown;
    }
    this.#piece.copy(this.#gathered, this.#gatheredLength);
    this.#gatheredLength = needed;
    this.#piece = noBytes;
  }

  #takeLine(bytes: Buffer, at: number): number | ResponseFault {
    const end = bytes.indexOf(lf, at);
    const size = (end < 0 ? bytes.length : end + 1) - at;
    if (this.#partial.length + size > maxChunkLineBytes) return "MALFORMED_RESPONSE";
    if (end < 0) {
      this.#partial = Buffer.concat([this.#partial, bytes.subarray(at)]);
      return size;
    }
    let fault: ResponseFault | undefined;
    if (this.#partial.length > 0) {
      const line = Buffer.concat([this.#partial, bytes.subarray(at, end + 1)]);
      this.#partial = noBytes;
      fault = this.#readLine(line, 0, line.length - 1);
    } else fault = this.#readLine(bytes, at, end);
    return fault ?? size;
  }

  /** One line of chunk framing in [start, lineEnd), its LF left out. */
  #readLine(bytes: Buffer, start: number, lineEnd: number): ResponseFault | undefined {
    const end = lineEnd > start && bytes[lineEnd - 1] === cr ? lineEnd - 1 : lineEnd;
    if (this.#state === "chunk-end") {
      if (end !== start) return "MALFORMED_RESPONSE";
      this.#state = "chunk-size";
      return undefined;
    }
    if (this.#state === "trailers") {
      this.#trailerBytes += lineEnd - start;
      if (this.#trailerBytes > this.#limits.maxHeaderBytes) return "HEADERS_TOO_LARGE";
      if (end === start) this.#state = "complete";
      return undefined;
    }
    const size = parseChunkSize(bytes, start, end);
    if (size < 0) return "MALFORMED_RESPONSE";
    if (size > this.#limits.maxBodyBytes) return "BODY_TOO_LARGE";
    this.#remaining = size;
    this.#state = size === 0 ? "trailers" : "chunk-data";
    return undefined;
  }
}

function statusOf(head: Buffer, at: number): number | undefined {
  if (head.toString("latin1", at, at + 7) !== "HTTP/1." || head[at + 8] !== 32) return undefined;
  const status = parseDigits(head, at + 9, at + 12);
  return status >= 100 && status <= 599 ? status : undefined;
}

/** Compares without regard to case; `name` is in lower case. */
function isName(bytes: Buffer, start: number, end: number, name: Buffer): boolean {
  if (end - start !== name.length) return false;
  for (let at = 0; at < name.length; at++) {
    if (((bytes[start + at] ?? 0) | 0x20) !== ((name[at] ?? 0) | 0x20)) return false;
  }
  return true;
}

function headerValue(bytes: Buffer, start: number, end: number): string {
  return bytes.toString("latin1", start, end).trim().toLowerCase();
}

/** Decimal digits with blanks around them; -1 when it is anything else or too long to be a size. */
function parseDigits(bytes: Buffer, start: number, end: number): number {
  let from = start;
  let to = end;
  while (from < to && isBlank(bytes[from])) from++;
  while (to > from && isBlank(bytes[to - 1])) to--;
  if (from === to || to - from > 15) return -1;
  let value = 0;
  for (let at = from; at < to; at++) {
    const digit = (bytes[at] ?? 0) - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** Hexadecimal digits, then nothing, blanks or an extension (RFC 9112 §7.1). */
function parseChunkSize(bytes: Buffer, start: number, end: number): number {
  let value = 0;
  let at = start;
  for (; at < end; at++) {
    const byte = bytes[at] ?? 0;
    const lower = byte | 0x20;
    if (byte >= 48 && byte <= 57) value = value * 16 + byte - 48;
    else if (lower >= 97 && lower <= 102) value = value * 16 + lower - 87;
    else break;
    if (at - start >= maxChunkSizeDigits) return -1;
  }
  if (at === start) return -1;
  while (at < end && isBlank(bytes[at])) at++;
  return at === end || bytes[at] === 59 ? value : -1;
}

function isBlank(byte: number | undefined): boolean {
  return byte === 32 || byte === 9;
}
