"use strict";

// Calls can't be tried from here: a page that may replace a team's token at a click is
// no reference.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  supportedSubmitMethods: [],
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
