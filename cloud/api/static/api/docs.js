// A file of its own, since the content security policy lets no script stand in a page.
const routes = document.getElementById("routes");
window.ui = SwaggerUIBundle({
  url: routes.dataset.schema,
  domNode: routes,
  deepLinking: true,
  docExpansion: "none",
  persistAuthorization: false,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
