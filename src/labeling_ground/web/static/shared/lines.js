// A stream of JSON objects, one a line (NDJSON).

/** Call `see(object)` for each line of a response as it comes; returns the last object, or `null`. */
export async function eachLine(response, see) {
  let rest = "", last = null;
  const line = (text) => {
    if (!text.trim()) return;
    last = JSON.parse(text);
    see(last);
  };
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop();
    lines.forEach(line);
    if (done) break;
  }
  line(rest);
  return last;
}
