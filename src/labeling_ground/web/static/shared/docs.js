// /docs: Swagger UI on this server's own description. Addresses are relative: the page may stand below any path.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  operationsSorter: (a, b) => (a.get("method") === "delete") - (b.get("method") === "delete"), // what is deleted cannot be tried
  validatorUrl: null, // a badge from another host
});
